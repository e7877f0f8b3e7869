"""One script per table: `python -m benchmarks.<name>`. Results, with machine, versions and commit, in `results/`."""
