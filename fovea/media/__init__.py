"""Image files: formats, limits, metadata, orientation and decoding to RGB."""
