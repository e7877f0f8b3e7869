"""Explanation of one image, read from the response of `/v1/explain` or `/v1/answer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from fovea.errors import InvalidRequest
from fovea.visualization.canvas import Viewed
from fovea.visualization.overlay import kept_patches

__all__ = ["ExplainedImage"]


@dataclass(frozen=True)
class ExplainedImage:
    """One question, and the kept, merged and dropped patches of one image.

    Maps are flat in raster order, and empty where the response has none.

    Attributes:
        question: text of the question.
        pruner: name of the pruner.
        grid: rows and columns of patches.
        kept: grid position of each kept token; a token that is not a patch may have a position after the last patch.
        merged_into: index into `kept` for each patch, -1 for a dropped patch; empty where the response has none.
        task_map: relevance of each patch to the question.
        saliency_map: CLS attention to each patch.
        activation_maps: further maps of `/v1/explain` by name.
        name: name of the image among several; empty for one image.
        answer: text of the answer; empty where none was generated.
        viewed: area of the image that the patches cover, see `Viewed`; None where the response does not say.
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
    answer: str = ""
    viewed: Viewed | None = None

    @classmethod
    def from_response(cls, question: str, response: Mapping[str, Any]) -> Self:
        """Explanation of the only image of a response.

        Args:
            question: text of the question.
            response: object of `/v1/explain` with format json, or of `/v1/answer` with `explain`.

        Raises:
            InvalidRequest: the image was cut into tiles.
        """
        (explanation,) = cls.list_from_response(question, response)
        return explanation

    @classmethod
    def list_from_response(cls, question: str, response: Mapping[str, Any]) -> list[Self]:
        """Explanation of each image of a response, see `from_response`.

        Raises:
            InvalidRequest: an image was cut into tiles, or there is a video.
        """
        explain, answer = response["explain"], str(response.get("answer") or "")
        if "visuals" not in explain:
            return [cls._from_fields(question, explain["pruner"], explain, response.get("maps") or {}, answer=answer)]
        media = explain["visuals"]
        if any(medium["kind"] != "image" or medium["grid"][0] != 1 for medium in media):
            raise InvalidRequest(
                "images that the model cuts into tiles, and videos, are not drawn; /v1/explain with format json returns"
                " the numbers",
                param="format",
            )
        return [
            cls._from_fields(
                question,
                explain["pruner"],
                _only_frame(medium),
                {},
                name=f"image {number} of {len(media)}",
                answer=answer if number == 1 else "",
            )
            for number, medium in enumerate(media, start=1)
        ]

    @classmethod
    def _from_fields(
        cls,
        question: str,
        pruner: str,
        fields: Mapping[str, Any],
        maps: Mapping[str, Any],
        *,
        name: str = "",
        answer: str = "",
    ) -> Self:
        rows, columns = fields["grid"]
        viewed = fields.get("viewed")
        return cls(
            question=question,
            pruner=pruner,
            grid=(rows, columns),
            kept=fields["kept"],
            merged_into=_flat(fields.get("merged_into")),
            task_map=_flat(fields.get("task_map")),
            saliency_map=_flat(fields.get("saliency_map")),
            activation_maps={kind: _flat(values) for kind, values in maps.items() if values},
            name=name,
            answer=answer,
            viewed=None if viewed is None else (viewed[0], viewed[1], viewed[2], viewed[3]),
        )

    @property
    def counts(self) -> str:
        """Line of text with the number of kept tokens, merged patches and dropped patches."""
        num_patches = self.grid[0] * self.grid[1]
        kept = {patch for _, patch in kept_patches(self.kept, self.merged_into, num_patches)}
        merged = sum(index >= 0 for patch, index in enumerate(self.merged_into) if patch not in kept)
        others = len(self.kept) - len(kept)
        tokens = max(num_patches, 1 + max(self.kept))
        return (
            f"{self.name}, " * bool(self.name)
            + f"{self.pruner}: {len(self.kept)} of {tokens} visual tokens kept"
            + f" ({others} of them not a patch)" * bool(others)
            + f", {merged} patches merged into them, {num_patches - len(kept) - merged} dropped"
        )


def _only_frame(medium: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an image among several, in the form of the fields of a single image."""
    maps = {name: medium[name][0] for name in ("task_map", "saliency_map", "merged_into") if medium.get(name)}
    return {"grid": medium["grid"][1:], "kept": medium["kept"], "viewed": medium.get("viewed"), **maps}


def _flat(rows: Any) -> list[Any]:
    return list(chain.from_iterable(rows or ()))
