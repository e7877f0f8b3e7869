"""Endpoint under load: its address, its key, and the models that it lists."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httpx

from fovea.client import AnswerError
from fovea.client.api_key import authorization
from fovea.client.connection_errors import tls_reason
from fovea.client.connection_settings import tls_context

__all__ = ["Endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server.

    Args:
        base_url: URL with or without `/v1` at its end, without a slash.
        api_key: bearer token; None for none. No text of this program shows it.
        timeout_s: deadline of a request, in seconds.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 300.0

    def url(self, path: str) -> str:
        """URL of a resource, such as `models`."""
        return f"{self.base_url.removesuffix('/v1')}/v1/{path}"

    @property
    def shown_url(self) -> str:
        """Base URL without user name and password."""
        return re.sub(r"//[^/@]*@", "//", self.base_url)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return authorization(self.api_key)

    def without_secrets(self, text: str) -> str:
        """Text of a server or a library, which may quote the key or the URL, without both secrets."""
        text = text.replace(self.api_key, "***") if self.api_key else text
        return re.sub(r"//[^/@\s]*@", "//", text)

    def reason(self, error: httpx.HTTPError) -> str:
        """Text of an error of the connection, with what to do if the error is one of TLS."""
        text = self.without_secrets(str(error)) or type(error).__name__
        known = tls_reason(self.shown_url, error)
        if not known:
            return text
        return known if isinstance(error, httpx.ConnectError) else f"{text}; {known}"

    def _unauthorized(self) -> str:
        if self.api_key:
            return "does not accept the API key of FOVEA_API_KEY, --api-key or --api-key-env"
        return "needs an API key: set the variable FOVEA_API_KEY, or name another variable with --api-key-env"

    def first_model(self) -> str:
        """Name of the first model of `/v1/models`.

        Raises:
            AnswerError: the endpoint cannot be reached, needs another API key, or lists no model.
        """
        try:
            response = httpx.get(
                self.url("models"), headers=self.headers, timeout=self.timeout_s, trust_env=False, verify=tls_context()
            )
        except httpx.HTTPError as error:
            raise AnswerError(f"no list of models from {self.shown_url}: {self.reason(error)}") from error
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise AnswerError(f"{self.shown_url} {self._unauthorized()} (status {response.status_code})")
        try:
            return str(response.raise_for_status().json()["data"][0]["id"])
        except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
            raise AnswerError(
                f"{self.shown_url} lists no model (status {response.status_code}); name one with --model"
            ) from error
