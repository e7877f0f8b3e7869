"""Bytes on the link: accuracy for them, a JPEG in comparison, and links of different rates."""
