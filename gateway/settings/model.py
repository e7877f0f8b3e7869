"""Settings of the gateway for the model that both services serve."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from fovea import checkpoints
from fovea.pruner_spec import NO_PRUNING
from fovea.settings import CommaSeparated, ServiceSettings
from gateway.model_names import ALIAS_FORM, parse_alias

__all__ = ["ServedModelSettings"]


class ServedModelSettings(ServiceSettings):
    """Settings for the model that both services serve."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True, protected_namespaces=())

    model: str
    """Checkpoint that both services serve: a local directory or a hub id. Only its tokenizer, chat template and
    configuration are read or fetched, never its weights."""

    text_tower: str = ""
    """Checkpoint of the text tower, whose tokenizer encodes the question; must be the encoder's own. Empty for the
    family's: openai/clip-vit-large-patch14-336 for llava and llava_next, LanguageBind/LanguageBind_Image for
    video_llava; the families of Qwen need none."""

    revision: str | None = None
    """Branch, tag or commit of `model` on the hub; left out: the default branch."""

    served_model_name: str = ""
    """Name that clients use in `model`; empty: the hub id, or the directory's last component. Any other name is a
    404."""

    alias: CommaSeparated[list[str]] = Field(default_factory=list)
    """Alias of the model that GET /v1/models lists, for OpenAI-compatible clients that can send only a name:
    NAME@PRUNER or NAME@PRUNER:KEEP_TOKENS, such as llava-1.5-7b@desap:64, where NAME is that of the served model. May
    be repeated; in the environment variable, comma-separated. An alias that is not listed works as well."""

    @field_validator("alias")
    @classmethod
    def _are_aliases(cls, value: list[str], info: ValidationInfo) -> list[str]:
        served_name = info.data.get("served_model_name") or checkpoints.public_name(info.data.get("model", ""))
        for alias in value:
            parsed = parse_alias(alias, served_name)
            if parsed is None:
                raise ValueError(f"{alias!r} is the name of the served model itself; {ALIAS_FORM} is accepted")
            if parsed.pruner == NO_PRUNING and parsed.keep_tokens is not None:
                raise ValueError(
                    f"{alias!r} is not accepted: pruner {NO_PRUNING!r} keeps all visual tokens and takes no budget;"
                    f" {served_name}@{NO_PRUNING} is accepted"
                )
        return value

    @property
    def model_name(self) -> str:
        """The name under which the model is served."""
        return self.served_model_name or checkpoints.public_name(self.model)
