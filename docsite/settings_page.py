"""docs/settings.md, written from the settings classes of the three services: `python -m docsite.settings_page`."""

from __future__ import annotations

import argparse
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from encoder_service.settings import EncoderSettings
from fovea.settings import GrpcSettings, ModelSettings, ServiceSettings
from gateway.settings import GatewaySettings
from gateway.settings.access import AccessSettings
from gateway.settings.cache import CacheSettings
from gateway.settings.connections import ConnectionSettings
from gateway.settings.model import ServedModelSettings
from gateway.settings.requests import RequestSettings
from gateway.settings.server import RestServerSettings
from gateway.settings.services import ServiceConnectionSettings
from gateway.settings.web_pages import WebPageSettings
from llm_service.settings import LLMSettings

__all__ = ["PAGE", "main", "render"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "settings.md"

_SERVICES: Final = (
    ("Gateway", GatewaySettings),
    ("Encoder service", EncoderSettings),
    ("LLM service", LLMSettings),
)
_GROUPS: Final[dict[type[ServiceSettings], str]] = {
    ServedModelSettings: "Model",
    ServiceConnectionSettings: "Connections to the services",
    CacheSettings: "Caches",
    RequestSettings: "Requests",
    ConnectionSettings: "Connections of clients",
    RestServerSettings: "Server",
    AccessSettings: "API keys and limits of clients",
    WebPageSettings: "Web pages",
    GrpcSettings: "gRPC server",
    ModelSettings: "Checkpoint",
    EncoderSettings: "Encoding and pruning",
    LLMSettings: "Generation",
}
_RANGES: Final = (
    (annotated_types.Ge, "ge", "at least"),
    (annotated_types.Gt, "gt", "above"),
    (annotated_types.Le, "le", "at most"),
)
_TYPES: Final = {
    bool: "flag",
    int: "integer",
    float: "number",
    dict: "JSON object",
    list: "texts, with commas between",
    tuple: "texts, with commas between",
}

_HEAD: Final = """# Settings

Each setting of a service is a flag and an environment variable. The flag overrides the variable, and the variable
the default.

```console
$ python -m gateway --model lab/checkpoints/llava --text-tower lab/checkpoints/clip --max-images 4
$ GATEWAY_MAX_IMAGES=4 python -m gateway --model lab/checkpoints/llava --text-tower lab/checkpoints/clip
$ python -m gateway --help
```

* `fovea up` starts all three services. Its own options, and a file with the settings of all services, are on the page
  of the [command line](cli.md#configuration-file).
* A service logs at start which settings differ from their defaults, and with `--log-level debug` all, without secrets.
  A wrong value, or a variable that resembles a setting, ends it with status 2 and a sentence that names the setting.
* A flag without a value, such as `--reflection`, has an opposite: `--no-reflection`. Its variable takes `true` or
  `false`.

The page is generated from the code: `python -m docsite.settings_page`.
"""


def render() -> str:
    """Text of the page."""
    return _HEAD + "".join(_service(title, settings) for title, settings in _SERVICES)


def _service(title: str, settings: type[ServiceSettings]) -> str:
    config = settings.model_config
    text = f"\n## {title}\n\n`{config.get('cli_prog_name')}`, variables `{config.get('env_prefix')}*`.\n"
    for group, names in _groups(settings):
        text += f"\n### {title}: {_GROUPS[group]}\n\n| setting | default | accepted | meaning |\n|---|---|---|---|\n"
        text += "".join(_row(name, settings.model_fields[name], str(config.get("env_prefix"))) for name in names)
    return text


def _groups(settings: type[ServiceSettings]) -> Iterator[tuple[type[ServiceSettings], list[str]]]:
    """Classes that declare fields, bases first as in --help, with the names of these fields."""
    rest = list(settings.model_fields)
    for cls in reversed(settings.__mro__):
        names = [name for name in rest if name in vars(cls).get("__annotations__", {})]
        rest = [name for name in rest if name not in names]
        if names:
            yield cls, names


def _row(name: str, field: FieldInfo, prefix: str) -> str:
    flag, variable = f"--{name.replace('_', '-')}", f"{prefix}{name}".upper()
    # A flag in a sentence is code; a bar would end the cell.
    meaning = re.sub(r"(?<![`\w-])--[a-z][a-z-]*\b", r"`\g<0>`", " ".join((field.description or "").split()))
    cells = (f"`{flag}` `{variable}`", _default(name, field), _accepted(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    value = value.get_secret_value() if isinstance(value, SecretStr) else value
    if value is None or value == "" or value == () or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if "bytes" in name and value >= 2**20:
        return f"`{value}` ({value / 2**20:g} MiB)"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _accepted(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation) if value)
    ranges = [
        f"{words} {getattr(constraint, attribute)}"
        for constraint in field.metadata
        for cls, attribute, words in _RANGES
        if isinstance(constraint, cls)
    ]
    kind = _TYPES.get(get_origin(annotation) or annotation, "text")
    return ", ".join([kind, *ranges])


def main(argv: list[str] | None = None) -> int:
    """Writes the page.

    Args:
        argv: arguments of the command line, without the program; None for those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m docsite.settings_page", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=PAGE, metavar="FILE", help="file to write (default: docs/settings.md)"
    )
    out: Path = parser.parse_args(argv).out
    out.write_text(render())
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
