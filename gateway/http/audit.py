"""Audit log: one line for each request of the API, with client, outcome and costs, and nothing that the client sent."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from gateway.access.clients import Client
from gateway.clients.encoder import EncodeResult
from gateway.core.answer import Answer, Lookup
from gateway.core.question import Question

__all__ = ["AuditRecord", "audit_record", "write_audit_line"]

log = logging.getLogger("gateway.audit")
log.setLevel(logging.INFO)  # whatever --log-level is

_RECORD: Final = "fovea.audit"
"""Key of the ASGI scope that holds the record of a request."""


@dataclass
class AuditRecord:
    """Costs of a request, as far as they are known at its end. None is unknown, or not part of the request.

    Attributes:
        images, videos: Number of images and videos.
        prompt_tokens, completion_tokens: Tokens of prompt and answer.
        visual_tokens: Visual tokens that were sent to the language model.
        cache: Outcome of the look-up in the cache of answers.
        visual_token_cache: Outcome of the look-up in the cache of visual tokens.
    """

    images: int | None = None
    videos: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    visual_tokens: int | None = None
    cache: Lookup | None = None
    visual_token_cache: Lookup | None = None

    def add_question(self, question: Question) -> None:
        """Adds the media of a question."""
        self.images, self.videos = len(question.encode.images), len(question.encode.videos)

    def add_answer(self, answer: Answer) -> None:
        """Adds the costs of an answer."""
        self.prompt_tokens = answer.completion.prompt_tokens
        self.completion_tokens = answer.completion.completion_tokens
        self.visual_tokens = answer.completion.visual_tokens_kept
        self.cache, self.visual_token_cache = answer.costs.answer, answer.costs.visual_tokens

    def add_explanation(self, encoded: EncodeResult) -> None:
        """Adds the visual tokens of an explanation."""
        self.visual_tokens = encoded.num_tokens_kept


def audit_record(scope: Scope) -> AuditRecord:
    """The record of a request."""
    record = scope.setdefault(_RECORD, AuditRecord())
    assert isinstance(record, AuditRecord)
    return record


def write_audit_line(
    scope: Scope, client: Client | None, *, method: str, route: str, status: int, outcome: str, seconds: float
) -> None:
    """Writes the line of a request that has ended.

    Args:
        scope: Scope of the request.
        client: Its client; None if it was refused for its key.
        method: HTTP method.
        route: Template of its route; empty for a path that does not exist.
        status: HTTP status; 0 if no response was sent.
        outcome: `ok`, or the code of the error.
        seconds: Time from its arrival to the last byte.
    """
    if client is None:
        key, tenant = None, None
    else:
        key, tenant = client.name if client.has_key else "anonymous", client.tenant
    fields = {
        "key": key,
        "tenant": tenant,
        "method": method,
        "route": route or None,
        "status": status,
        "outcome": outcome,
        "seconds": round(seconds, 6),
        **vars(audit_record(scope)),
    }
    log.info("%s %s %d %s", method, route or "-", status, outcome, extra={"fields": fields})
