"""Looking at a data set before anything trains on it."""
