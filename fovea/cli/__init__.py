"""The `fovea` command: one file a subcommand, what they share in `options`, `values`, `media` and `parsing`."""

from fovea.cli.program import main

__all__ = ["main"]
