"""Response of `GET /v1/pruners`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from fovea.pruner_spec import PrunerSpec

__all__ = ["PrunerList"]


class PrunerList(BaseModel):
    """Pruners of both services, and the defaults of this server."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pruners: list[PrunerSpec]
    """All pruners, those of the encoder service first."""

    default_pruner: str
    """Pruner of requests that name none."""

    default_keep_ratio: float
    """Budget of requests that set none, as a share of the visual tokens."""

    default_wire_dtype: str
    """Wire format of requests that set none."""
