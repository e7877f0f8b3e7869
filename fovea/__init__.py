"""Shared code of encoder service, LLM service and gateway, the client, and the `fovea` command. Imports no service."""

__version__ = "0.1.0"
