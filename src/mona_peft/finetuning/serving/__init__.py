"""One base model in memory that serves many adapters."""
