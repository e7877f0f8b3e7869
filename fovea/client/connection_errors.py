"""Reasons of connections that fail for their TLS, with what to do about them."""

from __future__ import annotations

import httpx

from fovea.client.connection_settings import CA_VARIABLE

__all__ = ["tls_reason"]

# OpenSSL's names for the answer of a server that speaks no TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def tls_reason(url: str, error: httpx.HTTPError) -> str:
    """Why a connection failed: a certificate that is not trusted, a name that is not served, or the wrong scheme.

    Args:
        url: base URL of the server for messages.
        error: error of the connection.

    Returns:
        reason and remedy; empty for another reason.
    """
    text = str(error)
    if isinstance(error, httpx.ConnectError):
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return (
                "its certificate is of no authority that this machine knows, or of another name; the variable"
                f" {CA_VARIABLE} may name a PEM file with its authority"
            )
        if "UNRECOGNIZED_NAME" in text:
            return "it serves other names; use the one of its certificate in the URL"
        if any(name in text for name in _NO_TLS):
            return f"it speaks http, not https; use http://{url.removeprefix('https://')}"
        return ""
    # A server that waits for TLS closes the connection before it has answered.
    is_cut_off = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) and "peer closed" not in text
    if is_cut_off and url.startswith("http://"):
        return f"if it speaks https, use https://{url.removeprefix('http://')}"
    return ""
