"""Metrics by the name of the API key."""

from __future__ import annotations

from functools import cache
from typing import Final

from gateway import metrics
from gateway.access.clients import Client
from gateway.http.audit import AuditRecord

__all__ = ["KeyMetrics"]

_MAX_NAMES: Final = 256
# The series of a label are looked up once.
_requests: Final = cache(metrics.KEY_REQUESTS.labels)
_tokens: Final = cache(metrics.KEY_TOKENS.labels)


class KeyMetrics:
    """Counts of requests and tokens by the name of the key.

    Only names of the file of keys become labels, and no more than `max_names` in the life of the process, since each
    is a series for as long: further ones are `(other)`. A client without a key is `(anonymous)`, one whose key was
    refused is `(refused)`. No key can have such a name.

    Args:
        max_names: Most names.
    """

    def __init__(self, max_names: int = _MAX_NAMES) -> None:
        self._max_names = max_names
        self._names: set[str] = set()

    def count(self, client: Client | None, outcome: str, record: AuditRecord) -> None:
        """Counts a request that has ended.

        Args:
            client: Its client; None if its key was refused.
            outcome: `ok`, or the code of the error.
            record: Its costs.
        """
        label = self._label(client)
        _requests(label, outcome).inc()
        _tokens(label, "prompt").inc(record.prompt_tokens or 0)
        _tokens(label, "completion").inc(record.completion_tokens or 0)

    def _label(self, client: Client | None) -> str:
        if client is None:
            return "(refused)"
        if not client.has_key:
            return "(anonymous)"
        if client.name not in self._names:
            if len(self._names) >= self._max_names:
                return "(other)"
            self._names.add(client.name)
        return client.name
