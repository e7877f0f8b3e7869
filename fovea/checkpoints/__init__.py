"""Checkpoints on disk: location, fingerprint, name, and family by config.json. Loads no weights."""

from fovea.checkpoints.files import CONFIG_FILES, fingerprint, local_directory, public_name, resolve, shown_name

__all__ = ["CONFIG_FILES", "fingerprint", "local_directory", "public_name", "resolve", "shown_name"]
