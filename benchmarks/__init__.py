"""Benchmarks, in a folder for each question; `python -m benchmarks.<name>` runs one. Results are in `results/`."""
