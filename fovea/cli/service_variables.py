"""Variables of the services by their flags, read from the settings of the services that are installed."""

from __future__ import annotations

import functools
import importlib
from typing import Any, Final

__all__ = ["service_variables"]

# Names, not imports: the package fovea depends on no service, and only a wrong command line needs them.
_SETTINGS: Final = (
    ("gateway.settings", "GatewaySettings"),
    ("encoder_service.settings", "EncoderSettings"),
    ("llm_service.settings", "LLMSettings"),
)


@functools.cache
def service_variables() -> dict[str, tuple[str, ...]]:
    """Variables by flag, with the value of a flag that takes none: `--no-reflection` is LLM_REFLECTION=false."""
    found: dict[str, tuple[str, ...]] = {}
    for module, name in _SETTINGS:
        try:
            settings: Any = getattr(importlib.import_module(module), name)
        except ImportError:  # this machine runs the other services
            continue
        for field, info in settings.model_fields.items():
            variable, flag = f"{settings.model_config['env_prefix']}{field}".upper(), field.replace("_", "-")
            forms = {f"--{flag}": variable}
            if info.annotation is bool:
                forms = {f"--{flag}": f"{variable}=true", f"--no-{flag}": f"{variable}=false"}
            for form, text in forms.items():
                found[form] = (*found.get(form, ()), text)
    return found
