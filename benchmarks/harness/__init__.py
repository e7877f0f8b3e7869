"""Shared code of the benchmarks: arguments, provenance, tables, intervals, plots, result files."""
