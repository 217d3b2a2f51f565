"""What instances say, and what is written of it."""
