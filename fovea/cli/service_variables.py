"""Settings of the services that are installed, and their variables by their flags."""

from __future__ import annotations

import functools
import importlib
from typing import Any, Final

__all__ = ["service_settings", "service_variables"]

# Names, not imports: the package fovea depends on no service, and most commands need none of their settings.
_SETTINGS: Final = {
    "gateway": ("gateway.settings", "GatewaySettings"),
    "encoder": ("encoder_service.settings", "EncoderSettings"),
    "llm": ("llm_service.settings", "LLMSettings"),
}


def service_settings() -> dict[str, Any]:
    """Settings classes by their table in a configuration file, without those of services that are not installed."""
    found = {}
    for table, (module, name) in _SETTINGS.items():
        try:
            found[table] = getattr(importlib.import_module(module), name)
        except ImportError:  # this machine runs the other services
            continue
    return found


@functools.cache
def service_variables() -> dict[str, tuple[str, ...]]:
    """Variables by flag, with the value of a flag that takes none: `--no-reflection` is LLM_REFLECTION=false."""
    found: dict[str, tuple[str, ...]] = {}
    for settings in service_settings().values():
        for field, info in settings.model_fields.items():
            variable, flag = f"{settings.model_config['env_prefix']}{field}".upper(), field.replace("_", "-")
            forms = {f"--{flag}": variable}
            if info.annotation is bool:
                forms = {f"--{flag}": f"{variable}=true", f"--no-{flag}": f"{variable}=false"}
            for form, text in forms.items():
                found[form] = (*found.get(form, ()), text)
    return found
