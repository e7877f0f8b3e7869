"""Names of the served model that clients may give: its own, and aliases such as `llava-1.5-7b@desap:64`.

An alias also says how images are pruned, for clients that can send nothing but a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, cast

__all__ = ["ALIAS_FORM", "ModelAlias", "parse_alias"]

ALIAS_FORM: Final = "NAME@PRUNER or NAME@PRUNER:KEEP_TOKENS"
_PRUNING: Final = re.compile(r"(?P<pruner>[^@:\s]{1,80})(?::(?P<keep_tokens>auto|[1-9][0-9]{0,8}))?")


@dataclass(frozen=True)
class ModelAlias:
    """Pruning that an alias asks for.

    Attributes:
        pruner: Name of the pruner of the encoder service.
        keep_tokens: Budget of each image or video; None for the server's default.
    """

    pruner: str
    keep_tokens: int | Literal["auto"] | None


def parse_alias(name: str, served_name: str) -> ModelAlias | None:
    """The pruning that a name of the served model asks for; None for its own name.

    Args:
        name: Name that a client gave.
        served_name: Name of the served model. It may hold `@` itself.

    Raises:
        ValueError: `name` is another model's, or an alias that is not of the form `ALIAS_FORM`.
    """
    if name == served_name:
        return None
    if not name.startswith(f"{served_name}@"):
        raise ValueError(f"{name!r:.80} is not a name of the served model {served_name!r}")
    pruning = _PRUNING.fullmatch(name.removeprefix(f"{served_name}@"))
    if pruning is None:
        raise ValueError(f"{name!r:.80} is not of the form {ALIAS_FORM}, with a count of 1 or more, or auto")
    keep_tokens = pruning["keep_tokens"]
    if keep_tokens in (None, "auto"):
        return ModelAlias(pruning["pruner"], cast(Literal["auto"] | None, keep_tokens))
    return ModelAlias(pruning["pruner"], int(keep_tokens))
