"""What the tuners have in common."""
