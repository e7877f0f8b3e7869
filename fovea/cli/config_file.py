"""Configuration file: options of commands that the command line and the environment do not give."""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fovea.cli.parsing import UsageError
from fovea.cli.unknown_settings import unknown_key
from fovea.similar_names import similar_name

__all__ = ["ConfigError", "add_config", "service_environment", "with_config"]

_VARIABLE: Final = "FOVEA_CONFIG"
_MAX_BYTES: Final = 2**20
_SHARED: Final = "client"
_SHARING: Final = ("ask", "chat", "explain", "doctor")
# Tables of others that a command reads before its own: the doctor checks what `up` would start.
_INHERITED: Final = {**dict.fromkeys(_SHARING, (_SHARED,)), "doctor": ("up", _SHARED)}
# Prefixes of the variables of the services, by table.
_SERVICES: Final = {"gateway": "GATEWAY_", "encoder": "ENCODER_", "llm": "LLM_"}
# Variables of options, which override the file.
_VARIABLES: Final = {
    "url": "FOVEA_URL",
    "api_key": "FOVEA_API_KEY",
    "redis_url": "GATEWAY_REDIS_URL",
    "keys_file": "GATEWAY_KEYS_FILE",
}
_NOT_IN_FILES: Final = ("help", "config")

Parsers = Mapping[str, argparse.ArgumentParser]


class ConfigError(UsageError):
    """A configuration file that cannot be used. The message names what is accepted."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the option of the file."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"TOML file with options, which those given here and variables override; also the variable {_VARIABLE}",
    )


def with_config(arguments: Sequence[str], parsers: Parsers) -> list[str]:
    """Arguments of a command with the options of the file before them.

    Args:
        arguments: name of the command and its arguments.
        parsers: parsers of the commands that may be in a file, by name.

    Raises:
        ConfigError: the file cannot be read, or has an option that does not exist or a value that is not accepted.
    """
    if not arguments or arguments[0] not in parsers:
        return list(arguments)
    command, *rest = arguments
    options = rest[: rest.index("--")] if "--" in rest else rest
    path = _path(options)
    if path is None:
        return list(arguments)
    tables = _tables(path, parsers)
    parser = parsers[command]
    wanted = {key: value for name in _INHERITED.get(command, ()) for key, value in tables[name].items()}
    own = tables.get(command, {})
    overridden = _exclusive(parser, {_dest(name) for name in own})
    values = {_dest(name): value for name, value in wanted.items() if _dest(name) not in overridden}
    values |= {_dest(name): value for name, value in own.items()}
    given = _exclusive(parser, _given(parser, options))
    words = [
        word
        for dest, value in values.items()
        if dest not in given and not os.environ.get(_VARIABLES.get(dest, ""))
        for action in [_actions(parser).get(dest)]
        if action is not None
        for word in _words(action, value)
    ]
    return [command, *words, *rest]


def service_environment(path: str | None) -> dict[str, str]:
    """Variables of the services from the tables `gateway`, `encoder` and `llm`, where the environment has none.

    Args:
        path: value of --config; None for that of the variable.

    Raises:
        ConfigError: the file cannot be read, a service has no such setting, or a value is neither a text, a number,
            true, false nor a list of them.
    """
    name = path or os.environ.get(_VARIABLE)
    if not name:
        return {}
    found, content = {}, _read(Path(name))
    for table, prefix in _SERVICES.items():
        values = _table(content, table, name)
        if unknown := unknown_key(table, values):
            key, helps = unknown
            raise ConfigError(f"{f'{name}: [{table}] {key}':.200}: there is no such setting; {helps}")
        for key, value in values.items():
            variable = f"{prefix}{_dest(key)}".upper()
            found[variable] = _text(value, f"{name}: [{table}] {key}")
    return {variable: text for variable, text in found.items() if not os.environ.get(variable)}


def _path(options: Sequence[str]) -> Path | None:
    """The file that --config names, else that of the variable."""
    for number, word in enumerate(options):
        if word == "--config" and number + 1 < len(options):
            return Path(options[number + 1])
        if word.startswith("--config="):
            return Path(word.partition("=")[2])
    name = os.environ.get(_VARIABLE)
    return Path(name) if name else None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path} has more than the {_MAX_BYTES:,} bytes accepted")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _table(tables: Mapping[str, Any], name: str, path: object) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} is not a table; accepted: [{name}] and its options below it")
    return table


def _tables(path: Path, parsers: Parsers) -> dict[str, dict[str, Any]]:
    """Tables of the file, whose options all exist and have values that their commands accept."""
    content = _read(path)
    known = [_SHARED, *parsers, *_SERVICES]
    for name in content:
        if name not in known:
            raise ConfigError(f"{path}: there is no {name!r:.80}; accepted: the tables {', '.join(known)}")
    tables = {name: _table(content, name, path) for name in [_SHARED, *parsers]}
    for name, table in tables.items():
        sharing = _SHARING if name == _SHARED else (name,)
        actions = {dest: action for command in sharing for dest, action in _actions(parsers[command]).items()}
        for key, value in table.items():
            place = f"{path}: [{name}] {key}"
            if _dest(key) not in actions:
                near = similar_name(_dest(key), actions)
                hint = f"did you mean {near}?" if near else f"accepted: {', '.join(sorted(actions))}"
                raise ConfigError(f"{place:.200}: there is no such option; {hint}")
            _check(actions[_dest(key)], value, place)
    return tables


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Options of a parser by their names in a file."""
    return {
        action.dest: action for action in parser._actions if action.option_strings and action.dest not in _NOT_IN_FILES
    }


def _given(parser: argparse.ArgumentParser, options: Sequence[str]) -> set[str]:
    """Options on the command line, which may be abbreviated."""
    names = {word.partition("=")[0] for word in options if word.startswith("--") and len(word) > 2}
    return {
        dest
        for dest, action in _actions(parser).items()
        if any(option.startswith(name) for option in action.option_strings for name in names)
    }


def _exclusive(parser: argparse.ArgumentParser, dests: set[str]) -> set[str]:
    """The options, and those that none of them may be given with."""
    groups = [{action.dest for action in group._group_actions} for group in parser._mutually_exclusive_groups]
    return dests.union(*(group for group in groups if group & dests))


def _check(action: argparse.Action, value: Any, place: str) -> None:
    for word in _words(action, value, place):
        text = word.partition("=")[2]
        if action.nargs == 0:
            continue
        try:
            read = action.type(text) if callable(action.type) else text
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise ConfigError(f"{place}: {error}") from error
        if action.choices is not None and read not in action.choices:
            raise ConfigError(f"{place}: {text!r:.80} is not accepted; accepted: {', '.join(map(str, action.choices))}")


def _words(action: argparse.Action, value: Any, place: str = "") -> Iterator[str]:
    """An option as words of the command line."""
    option = action.option_strings[0]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ConfigError(f"{place}: accepted: true or false")
        yield from [option] * value
    elif isinstance(value, list) and isinstance(action, argparse._AppendAction):
        yield from (f"{option}={_text(item, place)}" for item in value)
    else:
        yield f"{option}={json.dumps(value) if isinstance(value, dict) else _text(value, place)}"


def _text(value: Any, place: str) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        return ",".join(_text(item, place) for item in value)
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{place}: accepted: a text, a number, true, false, or a list of them")


def _dest(name: str) -> str:
    return name.replace("-", "_")
