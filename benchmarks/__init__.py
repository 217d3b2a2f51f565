"""What the mesh costs, measured: `python -m benchmarks.run --help`."""
