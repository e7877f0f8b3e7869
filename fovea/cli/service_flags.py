"""Flags that `fovea up` does not have, those of `vllm serve` and of the services, and what takes their place there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from fovea.cli.parsing import near_flag, written_flag
from fovea.cli.service_variables import service_variables
from fovea.vllm_flags import REPLACEMENTS, WITHOUT_REPLACEMENT

__all__ = ["advice", "remedy"]

_CHOSEN: Final = dict.fromkeys(("--encoder", "--llm"), "fovea up starts this service itself and chooses its address")
_NOT_NEEDED: Final = WITHOUT_REPLACEMENT | _CHOSEN
_OTHER: Final = (
    "a service's own option is a variable, such as GATEWAY_MAX_IMAGES=4, or a line of --config;"
    " one of vLLM's engine is a name in LLM_ENGINE_ARGS, with LLM_ENGINE=vllm"
)


def advice(words: Sequence[str], given: argparse.Namespace) -> str:
    """What to give `fovea up` in place of arguments that it does not have.

    Args:
        words: these arguments.
        given: the other arguments.
    """
    # A negative number is a value.
    # vLLM writes a key of a JSON value behind a dot: --limit-mm-per-prompt.image 4.
    flags = [flag for flag in map(written_flag, words) if flag]
    hints = sorted((_hint(flag, given.parser.flags) for flag in flags), key=lambda hint: hint == _OTHER)
    if not words[0].startswith("-"):
        hints.insert(0, _of_a_name(words[0], given))
    return "; ".join(dict.fromkeys(hints)) or _OTHER


def remedy(flag: str) -> str:
    """What helps in place of a flag that `fovea up` does not have: "use ...", or what is so without it.

    Args:
        flag: flag with its dashes.

    Returns:
        text, which is empty for a flag that neither `vllm serve` nor a service is known to have.
    """
    if flag in _NOT_NEEDED:
        return _NOT_NEEDED[flag]
    choice = _replacement(flag)
    return f"use {choice}" if choice else ""


def _replacement(flag: str) -> str:
    if flag in REPLACEMENTS:
        return REPLACEMENTS[flag]
    *others, last = service_variables().get(flag, ("",))
    return f"{', '.join(others)} or {last}, each for one service" if others else last


def _hint(flag: str, own: Sequence[str]) -> str:
    """Hint about a flag.

    Args:
        flag: flag with its dashes.
        own: flags of `fovea up`.
    """
    if flag in _NOT_NEEDED:
        return f"{flag}: {_NOT_NEEDED[flag]}"
    if flag in own:  # written with underscores, as vLLM takes it
        return f"did you mean {flag}?"
    if choice := _replacement(flag):
        return f"in place of {flag} use {choice}"
    if near := near_flag(flag, own):
        return f"did you mean {near}?"
    if near := near_flag(flag, [*REPLACEMENTS, *service_variables()]):
        return f"did you mean {near}? In its place use {_replacement(near)}"
    return _OTHER


def _of_a_name(name: str, given: argparse.Namespace) -> str:
    if given.model is None:
        return f"the model is named as --model {name}"
    if given.served_model_name is None:
        return "--model is given already; one checkpoint is accepted"
    return "one checkpoint is accepted after --model, and one name after --served-model-name"
