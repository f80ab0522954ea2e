"""Data that comes with the package's requirements: scanned digits, and scenes composed from them."""
