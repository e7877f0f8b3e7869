"""Texts for wrong settings in the words of a command line, in place of those of pydantic and argparse."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from fovea.similar_names import similar_name
from fovea.vllm_flags import REPLACEMENTS, WITHOUT_REPLACEMENT

__all__ = ["flags_text", "value_text"]

_TEXTS: Final = {
    "bool_parsing": "true or false is accepted",
    "float_parsing": "a number is accepted",
    "int_parsing": "a whole number is accepted",
    "missing": "a value is needed",
}
"""Texts by pydantic's type of the error."""
_OF_FLAGS: Final = "error parsing CLI: "
"""Begin of pydantic's text of an error about flags. Its other errors are of values that have to be JSON."""


def value_text(item: ErrorDetails) -> str:
    """Text of an error of pydantic in our words, and that of a validator without the "Value error, " before it."""
    if item["type"] in _TEXTS:
        return _TEXTS[item["type"]]
    if item["type"] == "literal_error":
        return f"{item['input']!r:.80} is not accepted; accepted: {item['ctx']['expected']}"
    raised = item.get("ctx", {}).get("error")
    return str(raised) if isinstance(raised, ValueError) else item["msg"]


def flags_text(error: SettingsError, settings: Collection[str]) -> str:
    """Text of an error about flags, or about a value that has to be JSON.

    Args:
        error: error of pydantic.
        settings: names of the settings.
    """
    text = str(error)
    if not text.startswith(_OF_FLAGS):
        named = [name for name in settings if re.search(rf"\b{name}\b", text)]
        flag = f"--{named[0].replace('_', '-')}: " if named else ""
        return f"""{flag}a JSON object is accepted, such as '{{"name": 1}}'"""
    text = text.removeprefix(_OF_FLAGS)
    return text + _advice(text, settings)


def _advice(text: str, settings: Collection[str]) -> str:
    """Advice for the end of an error about flags: what was perhaps meant, or takes the place of a flag of `vllm serve`.

    Args:
        text: text of argparse.
        settings: names of the settings.
    """
    if not text.startswith("unrecognized"):
        return ""
    known = [f"--{name.replace('_', '-')}" for name in settings]
    flags = [flag.replace("_", "-") for flag in re.findall(r"(?<!\S)--?[a-z][\w-]*", text)]
    hints = [hint for flag in flags if (hint := _hint(flag, known))]
    return "; " + "; ".join([*dict.fromkeys(hints), "--help lists all settings"]).replace("?; ", "? ")


def _hint(flag: str, known: Collection[str]) -> str:
    """Hint about one flag; empty for none.

    Args:
        flag: flag with its dashes.
        known: flags of the service.
    """
    if near := similar_name(flag, known, likeness=0.8):
        return f"did you mean {near}?"
    if flag in WITHOUT_REPLACEMENT:
        return f"{flag}: {WITHOUT_REPLACEMENT[flag]}"
    choice = REPLACEMENTS.get(flag)
    # The other services have some of the flags that it may name.
    if choice is None or not set(re.findall(r"(?<!\S)--[\w-]+", choice)) <= {*known, "--file"}:
        return ""
    return f"in place of {flag} use {choice}"
