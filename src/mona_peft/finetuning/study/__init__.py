"""Comparisons of fine-tuning methods: studies of many runs, their statistics, plots and reports."""
