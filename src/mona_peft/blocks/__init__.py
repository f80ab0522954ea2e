"""What a transformer block is, and how an adapter reaches its residual stream."""
