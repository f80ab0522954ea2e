"""Tasks: each puts data, model, loss and metrics together for the training loop."""
