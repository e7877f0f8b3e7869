"""One script per table: `python -m benchmarks.<name>`. The results of this repository are in `results/`."""
