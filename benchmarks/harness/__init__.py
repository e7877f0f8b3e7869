"""What every benchmark uses: arguments, provenance, tables, intervals, plots, result files."""
