"""What the three services share: contract, tensors, errors, channels, servers, settings. Imports none of them."""

__version__ = "0.1.0"
