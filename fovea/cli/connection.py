"""Client of the gateway that the options name."""

from __future__ import annotations

import argparse
import sys

from fovea.client import AnswerError, Client

__all__ = ["gateway_client"]


def gateway_client(args: argparse.Namespace) -> Client:
    """Client with the options of `add_gateway`, which tells on standard error that it waits.

    Raises:
        AnswerError: the URL is not accepted.
    """
    return Client(args.url, api_key=args.api_key or "", timeout_s=args.timeout_s, on_retry=_tell)


def _tell(error: AnswerError, wait_s: float) -> None:
    print(f"fovea: {error}; trying again in {max(wait_s, 1):.0f} s", file=sys.stderr, flush=True)
