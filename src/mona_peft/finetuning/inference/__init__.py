"""Load a trained repository and predict with it."""
