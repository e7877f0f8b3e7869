"""Texts for wrong settings in the words of a command line, in place of those of pydantic and argparse."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Final

from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

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
    """Advice for the end of an error about flags: the setting that was perhaps meant, and where all are listed.

    Args:
        text: text of argparse.
        settings: names of the settings.
    """
    if not text.startswith("unrecognized"):
        return ""
    known = [f"--{name.replace('_', '-')}" for name in settings]
    for flag in re.findall(r"(?<!\S)--[\w-]+", text):
        if near := difflib.get_close_matches(flag.replace("_", "-"), known, n=1, cutoff=0.8):
            return f"; did you mean {near[0]}? --help lists all settings"
    return "; --help lists all settings"
