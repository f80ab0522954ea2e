"""What studies compare on: each testbed is data, backbone and recipe of one task."""
