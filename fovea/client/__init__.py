"""Synchronous client of the gateway, for the command line and for scripts."""

from fovea.client.gateway import AnswerError, ask, explain

__all__ = ["AnswerError", "ask", "explain"]
