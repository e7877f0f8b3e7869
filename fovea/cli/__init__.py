"""The `fovea` command: one file for each subcommand; shared code is in `options`, `values`, `media` and `parsing`."""

from fovea.cli.program import main

__all__ = ["main"]
