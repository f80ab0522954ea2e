"""Trained models tried in the browser."""
