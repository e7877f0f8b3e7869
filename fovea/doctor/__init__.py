"""Checks of a machine and of a gateway. Each returns findings, and changes nothing."""
