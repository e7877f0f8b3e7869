"""Requests of a client and what their responses mean, without sending them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import httpx

from fovea.client.api_key import authorization, is_api_key
from fovea.client.connection_errors import tls_reason
from fovea.client.errors import AnswerError
from fovea.client.event_stream import EventParser
from fovea.client.form_parts import Part, UnreadableMedium
from fovea.client.gateway_url import gateway_url
from fovea.client.retries import retry_after_s

__all__ = ["AnswerEvents", "Exchange", "read_object", "refusal"]

_GRACE_S: Final = 5.0  # the gateway, which knows the deadline, answers first and says more


class Exchange:
    """Address and key of a gateway, and the form of its requests and errors.

    Args:
        url: base URL of the gateway.
        api_key: API key; None or empty for none.

    Attributes:
        shown_url: base URL without user name and password, for messages.

    Raises:
        AnswerError: URL or key is not accepted.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        try:
            self._base = gateway_url(url)
        except ValueError as error:
            raise AnswerError(str(error)) from error
        if api_key and not is_api_key(api_key):
            raise AnswerError("the API key is not accepted; ASCII letters, digits and signs without spaces are")
        self._api_key = api_key or None
        self.shown_url = re.sub(r"//[^/@]*@", "//", self._base)

    def post(self, path: str, parts: Sequence[Part], timeout_s: float) -> dict[str, Any]:
        """Arguments of a POST request, for httpx.

        Args:
            path: path of the resource.
            parts: parts of the form. Their files are sent from the start, also for a second attempt.
            timeout_s: deadline in seconds, which the gateway is told.
        """
        for _, (_, content) in parts:
            if not isinstance(content, bytes):
                content.seek(0)
        deadline: Part = "timeout_s", (None, json.dumps(timeout_s).encode())
        return self.get(path, timeout_s) | {"method": "POST", "files": [*parts, deadline]}

    def get(self, path: str, timeout_s: float) -> dict[str, Any]:
        """Arguments of a GET request, for httpx."""
        return {
            "method": "GET",
            "url": f"{self._base}{path}",
            "headers": authorization(self._api_key),
            "timeout": timeout_s + _GRACE_S,
            "follow_redirects": False,  # the media and the key are for this gateway
        }

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Context whose errors of media, connection and gateway are AnswerErrors. No message has the key."""
        try:
            yield
        except AnswerError as error:  # a server may quote the headers of a request
            if self._api_key and self._api_key in str(error):
                raise error.without(self._api_key) from None
            raise
        except UnreadableMedium as error:
            raise AnswerError(str(error)) from error
        except httpx.TimeoutException as error:
            raise AnswerError(f"no answer from {self.shown_url} in time") from error
        except httpx.ConnectError as error:
            if reason := tls_reason(self.shown_url, error):
                raise AnswerError(f"no connection to {self.shown_url}: {reason}") from error
            reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or "it cannot be reached"
            raise AnswerError(f"no connection to {self.shown_url}: {reason}; is `fovea up` running?") from error
        except httpx.HTTPError as error:
            reason = tls_reason(self.shown_url, error)
            hint = f"{reason}; " if reason else ""
            raise AnswerError(f"the connection to {self.shown_url} broke; {hint}is `fovea up` running?") from error


def read_object(url: str, response: httpx.Response) -> dict[str, Any]:
    """JSON object of a response that was read.

    Args:
        url: base URL of the gateway for messages.
        response: response of any status.

    Raises:
        AnswerError: the response is an error, a redirect, or no JSON object.
    """
    body = _json(response)
    if response.status_code != httpx.codes.OK or not isinstance(body, dict):
        raise refusal(url, response)
    return body


def refusal(url: str, response: httpx.Response) -> AnswerError:
    """Error of a response that is no answer; see `read_object`."""
    status, body = response.status_code, _json(response)
    if response.has_redirect_location:
        place = response.headers["location"]
        return AnswerError(f"{url} has moved: it answered with status {status} and names {place}", status=status)
    error = body.get("error") if isinstance(body, dict) else None
    fields = error if isinstance(error, dict) else {}
    details = _details(fields, response.headers)
    if not isinstance(body, dict):
        return AnswerError(f"{url} answered with status {status} and no JSON object", status=status, **details)
    text = fields["message"] if "message" in fields else response.text[:1000]
    return AnswerError(f"{text} (status {status})", status=status, **details)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _details(error: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Attributes of an AnswerError from the object `error` of the gateway, or of another server."""
    texts = {name: error[name] for name in ("code", "param") if isinstance(error.get(name), str)}
    return {**texts, "retry_after_s": retry_after_s(headers, error)}


class AnswerEvents:
    """Server-sent events of one answer.

    Args:
        url: base URL of the gateway for messages.

    Attributes:
        answer: object of the event `done`; None before it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._parser = EventParser()
        self.answer: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Pieces of the answer's text in the next chunk of the body. Events after `done` are ignored.

        Raises:
            AnswerError: the gateway sent an error, or an event that is not JSON.
        """
        for name, text in self._parser.feed(chunk):
            if self.answer is not None:
                return
            try:
                data: dict[str, Any] = json.loads(text)
            except ValueError as error:
                raise AnswerError(f"{self._url} sent an event that is not JSON") from error
            if name == "error":
                raise AnswerError(data["error"]["message"], **_details(data["error"], {}))
            if name == "done":
                self.answer = data
            elif name == "token":
                yield data["text"]

    def finish(self) -> dict[str, Any]:
        """The whole answer, at the end of the body.

        Raises:
            AnswerError: the body ended without the event `done`.
        """
        if self.answer is None:
            raise AnswerError(f"{self._url} broke the answer off")
        return self.answer
