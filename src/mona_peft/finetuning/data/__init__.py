"""Data sets: presets, local layouts, transforms, and the data that comes with the package's requirements."""
