"""Gateway, key and certificate authority of a client that names none, from the environment."""

from __future__ import annotations

import os
import ssl
from typing import Final

from fovea.client.errors import AnswerError

__all__ = ["CA_VARIABLE", "DEFAULT_URL", "api_key_or_variable", "tls_context", "url_or_variable"]

DEFAULT_URL: Final = "http://127.0.0.1:8000"
CA_VARIABLE: Final = "FOVEA_CA_FILE"
"""Variable with the PEM file of a certificate authority that is accepted besides those of the system."""


def url_or_variable(url: str | None) -> str:
    """`url`, else the variable FOVEA_URL, else `DEFAULT_URL`."""
    return url if url is not None else os.environ.get("FOVEA_URL") or DEFAULT_URL


def api_key_or_variable(api_key: str | None) -> str | None:
    """`api_key`, else the variable FOVEA_API_KEY; None for no key."""
    return (api_key if api_key is not None else os.environ.get("FOVEA_API_KEY")) or None


def tls_context() -> ssl.SSLContext:
    """TLS context with the authorities of the system, and those of the file that FOVEA_CA_FILE names.

    Raises:
        AnswerError: the file cannot be used.
    """
    context = ssl.create_default_context()
    file = os.environ.get(CA_VARIABLE)
    if file:
        try:
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
            raise AnswerError(f"{CA_VARIABLE}: {reason or 'the file has no certificate in PEM form'}") from error
    return context
