"""Checkpoints on disk: where they are, which one it is, and whether their family is served. Reads no weights."""

from fovea.checkpoints.files import CONFIG_FILES, fingerprint, public_name, resolve, shown_name

__all__ = ["CONFIG_FILES", "fingerprint", "public_name", "resolve", "shown_name"]
