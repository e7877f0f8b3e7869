"""What an image file holds beside its pixels: read or skipped here, within limits, before a decoder sees the file."""
