"""Client of the gateway: `Client` and `AsyncClient`, and `ask` and `explain` for one request."""

from fovea.client.answers import Answer, Explanation
from fovea.client.async_client import AsyncAnswerStream, AsyncClient
from fovea.client.errors import AnswerError
from fovea.client.form_parts import user_message
from fovea.client.functions import ask, explain
from fovea.client.sync_client import AnswerStream, Client

__all__ = [
    "Answer",
    "AnswerError",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncClient",
    "Client",
    "Explanation",
    "ask",
    "explain",
    "user_message",
]
