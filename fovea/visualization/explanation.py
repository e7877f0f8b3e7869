"""What an explanation says of one picture, read from the answer of `/v1/explain` or `/v1/answer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from fovea.errors import InvalidRequest
from fovea.visualization.overlay import kept_patches

__all__ = ["ImageExplanation"]


@dataclass(frozen=True)
class ImageExplanation:
    """One question with what was decided for one picture; maps flat in raster order, empty where there is none.

    Attributes:
        question: The question.
        pruner: Which ran.
        grid: Rows and columns of patches.
        kept: The place with which each kept token travels: that of a patch, or one after the last for a token that is
            none.
        merged_into: For each patch an index into `kept`, -1: dropped; empty: not told.
        task_map: Relevance to the question.
        saliency_map: Attention of CLS.
        activation_maps: By name, those of `/v1/explain`.
        name: Of the picture, where there are several.
    """

    question: str
    pruner: str
    grid: tuple[int, int]
    kept: Sequence[int]
    merged_into: Sequence[int]
    task_map: Sequence[float]
    saliency_map: Sequence[float]
    activation_maps: Mapping[str, Sequence[float]]
    name: str = ""

    @classmethod
    def from_response(cls, question: str, response: Mapping[str, Any]) -> Self:
        """Of the object that `/v1/explain` answers as JSON about one picture; of `/v1/answer` with `explain` as well.

        Raises:
            InvalidRequest: The picture was cut into tiles.
        """
        (one,) = cls.list_from_response(question, response)
        return one

    @classmethod
    def list_from_response(cls, question: str, response: Mapping[str, Any]) -> list[Self]:
        """The same about several pictures, one for each.

        Raises:
            InvalidRequest: One of them was cut into tiles, or is a video.
        """
        why = response["explain"]
        if "visuals" not in why:
            return [cls._of(question, why["pruner"], why, response.get("maps") or {}, name="")]
        visuals = why["visuals"]
        if any(visual["kind"] != "image" or visual["grid"][0] != 1 for visual in visuals):
            raise InvalidRequest(
                "pictures that the model cuts into tiles, and videos, are not drawn; /v1/explain with format json gives"
                " the numbers",
                param="format",
            )
        return [
            cls._of(question, why["pruner"], _only_frame(visual), {}, name=f"picture {number} of {len(visuals)}")
            for number, visual in enumerate(visuals, start=1)
        ]

    @classmethod
    def _of(cls, question: str, pruner: str, why: Mapping[str, Any], maps: Mapping[str, Any], *, name: str) -> Self:
        rows, columns = why["grid"]
        return cls(
            question=question,
            pruner=pruner,
            grid=(rows, columns),
            kept=why["kept"],
            merged_into=_flat(why.get("merged_into")),
            task_map=_flat(why.get("task_map")),
            saliency_map=_flat(why.get("saliency_map")),
            activation_maps={kind: _flat(rows) for kind, rows in maps.items() if rows},
            name=name,
        )

    @property
    def counts(self) -> str:
        """What became of the patches, in words."""
        patches = self.grid[0] * self.grid[1]
        own = {patch for _, patch in kept_patches(self.kept, self.merged_into, patches)}
        merged = sum(owner >= 0 for patch, owner in enumerate(self.merged_into) if patch not in own)
        others = len(self.kept) - len(own)
        tokens = max(patches, 1 + max(self.kept))
        return (
            f"{self.name}, " * bool(self.name)
            + f"{self.pruner}: {len(self.kept)} of {tokens} visual tokens kept"
            + f" ({others} of them not a patch)" * bool(others)
            + f", {merged} patches merged into them, {patches - len(own) - merged} dropped"
        )


def _only_frame(visual: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of several visuals in the shape for one plain picture."""
    maps = {name: visual[name][0] for name in ("task_map", "saliency_map", "merged_into") if visual.get(name)}
    return {"grid": visual["grid"][1:], "kept": visual["kept"], **maps}


def _flat(rows: Any) -> list[Any]:
    return list(chain.from_iterable(rows or ()))
