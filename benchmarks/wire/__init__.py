"""Bytes on the link: against accuracy, against a JPEG, on links of different rates."""
