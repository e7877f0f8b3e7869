"""Settings that a service does not have, in the file or the environment, and what takes their place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from fovea.cli.service_flags import remedy
from fovea.cli.service_variables import service_settings
from fovea.similar_names import similar_name
from fovea.vllm_flags import REPLACEMENTS

__all__ = ["ignored_variables", "unknown_key"]

_KEY_OF_VLLM: Final = "VLLM_API_KEY"
"""Variable that makes `vllm serve` ask for a key."""


def unknown_key(table: str, keys: Iterable[str]) -> tuple[str, str] | None:
    """First key of a table of the configuration file that is no setting of its service.

    Args:
        table: `gateway`, `encoder` or `llm`.
        keys: keys of the table.

    Returns:
        key, and what to do about it; None if all are settings, or the service is not installed.
    """
    settings = service_settings().get(table)
    if settings is None:
        return None
    for key in keys:
        name = key.replace("-", "_").lower()
        if name not in settings.model_fields:
            return key, _in_a_file(name) or _near(name, settings.model_fields, settings.model_config["cli_prog_name"])
    return None


def ignored_variables(environment: Mapping[str, str]) -> list[str]:
    """Line for each variable that a service ignores, though its prefix is that of the service's settings, and for the
    key of `vllm serve`.

    Other programs have such variables too, so they are no error. A service itself refuses one that resembles a
    setting.

    Args:
        environment: variables and their values.
    """
    lines = []
    if environment.get(_KEY_OF_VLLM):
        lines.append(f"{_KEY_OF_VLLM} is ignored, and clients need no key for it; use {REPLACEMENTS['--api-key']}")
    for settings in service_settings().values():
        for variable, meant in settings.unknown_variables(environment).items():
            if not meant and environment[variable]:
                name = variable.removeprefix(settings.model_config["env_prefix"])
                helps = remedy(f"--{name.lower().replace('_', '-')}")
                lines.append(f"{variable} is not a setting and is ignored{f'; {helps}' if helps else ''}")
    return lines


def _in_a_file(name: str) -> str:
    """What takes the place of a key, with variables as lines of the file: `[llm] max_batch_size = N`."""
    helps = remedy(f"--{name.replace('_', '-')}")
    return re.sub(r"\b(GATEWAY|ENCODER|LLM)_([A-Z_]+)(?:=(\w*))?", _as_key, helps)


def _as_key(variable: re.Match[str]) -> str:
    table, name, value = variable.groups()
    key = f"[{table.lower()}] {name.lower()}"
    if value is None:
        return key
    is_text = value.islower() and value not in ("true", "false")
    return f'{key} = "{value}"' if is_text else f"{key} = {value}"


def _near(name: str, names: Iterable[str], program: str) -> str:
    near = similar_name(name, names)
    return f"did you mean {near}?" if near else f"{program} --help lists all"
