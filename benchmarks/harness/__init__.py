"""What every benchmark uses: options, results, provenance, intervals, tables."""
