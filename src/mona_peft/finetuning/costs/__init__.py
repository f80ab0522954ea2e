"""What a training step, an inference and a start cost, by method: see `scripts/benchmark.py`."""
