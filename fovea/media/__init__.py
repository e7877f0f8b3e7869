"""Image files: formats, limits, orientation; everything that is decided before and after a decoder runs."""
