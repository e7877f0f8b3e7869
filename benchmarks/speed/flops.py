"""`python -m benchmarks.flops`: multiply-adds of a prefill by method and budget, and those of pruning in the encoder.

Nothing is run or timed: schedules are those of the LLM service, the rest is arithmetic (`operations.py`). The count is
that of DeSAP's appendix (arXiv 2604.11240, B.2): the layers of the language model, on visual tokens alone. Writes
`flops.json` and `flops.md` into --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.speed.flops_report import markdown
from benchmarks.speed.operations import Decoder, TextTower, VisionTower, fcma, merging, projector
from encoder_service.pruners import PRUNERS as ENCODER_PRUNERS
from encoder_service.pruners.prumerge_plus import released_sample
from fovea.budget import Budget
from llm_service.pruners import PRUNERS as LLM_PRUNERS
from llm_service.pruners.plan import UnreachableBudget, bind

__all__ = ["Setting", "left_after", "llm_side", "main", "parts"]

_SHARES: Final = (1 / 3, 2 / 9, 1 / 9)
_EXACT: Final = [name for name in ENCODER_PRUNERS if name != "none"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A budget: `keep` of `tokens` visual tokens, in `tiles` equal tiles that the encoder prunes one by one."""

    keep: int
    tokens: int
    tiles: int = 1

    @property
    def label(self) -> str:
        return f"{self.keep} of {self.tokens}"


def left_after(processed: Sequence[int]) -> list[int]:
    """The other counting: tokens left after each layer, from the tokens that each layer attends over."""
    return [*processed[1:], processed[-1]]


def llm_side(name: str, counting: str, keep: int, tokens: int, num_layers: int) -> list[int] | None:
    """Visual tokens that each layer attends over, by the method's own schedule; None for a budget out of reach."""
    try:
        plan = bind(LLM_PRUNERS[name], {"counting": counting}).plan(Budget.count(keep), tokens, num_layers)
    except UnreachableBudget:
        return None
    return [tokens] * num_layers if plan is None else list(plan.visual_tokens)


def _flowcut_in_both(setting: Setting, num_layers: int) -> list[int] | None:
    """Tokens by layer of a tiled image: FlowCut keeps half a tile's budget in the tower, the budget in the LLM."""
    tokens = setting.tiles * (setting.keep // 2)
    if setting.tiles == 1 or tokens >= setting.tokens:
        return None
    return llm_side("flowcut_llm", "own", setting.keep, tokens, num_layers)


def _prumerge_plus_tokens(setting: Setting) -> int:
    """Tokens that the sampling of the released code keeps at a fixed budget."""
    tokens, keep = setting.tokens // setting.tiles, setting.keep // setting.tiles
    if not 2 <= keep < tokens:  # nothing is sampled
        return setting.keep
    return setting.tiles * (1 + len(released_sample(torch.arange(keep // 2), tokens)))


def _rows(settings: Sequence[Setting], decoder: Decoder) -> Iterator[dict[str, Any]]:
    def row(method: str, side: str, budget: str, schedules: Sequence[Sequence[int] | None]) -> dict[str, Any]:
        cells = [None if counts is None else _cell(counts, decoder) for counts in schedules]
        return {"method": method, "side": side, "budget": budget, "cells": cells}

    layers = decoder.num_layers
    yield row("none", "encoder", "", [[setting.tokens] * layers for setting in settings])
    yield row(", ".join(_EXACT), "encoder", "exact", [[setting.keep] * layers for setting in settings])
    released = [[_prumerge_plus_tokens(setting)] * layers for setting in settings]
    yield row("prumerge_plus, fidelity", "encoder", "its grid", released)
    both = [_flowcut_in_both(setting, layers) for setting in settings]
    if any(both):
        yield row("flowcut, then flowcut_llm", "both", "half a tile, then own", both)
    for counting in ("own", "average"):
        for name in LLM_PRUNERS:
            schedules = [llm_side(name, counting, setting.keep, setting.tokens, layers) for setting in settings]
            yield row(name, "llm", counting, schedules)


def _cell(processed: Sequence[int], decoder: Decoder) -> dict[str, Any]:
    cell: dict[str, Any] = {}
    for convention, counts in (("processed", list(processed)), ("after", left_after(processed))):
        cell[convention] = {
            "tokens_by_layer": counts,
            "average": sum(counts) / len(counts),
            "flops": decoder.prefill(counts),
        }
    return cell


def parts(
    decoder: Decoder, vision: VisionTower, text: TextTower, keep: int | None, *, words: int, transformers: bool = False
) -> dict[str, int]:
    """Multiply-adds of one image and one question, by step in their order; 0 for a step that is not run.

    Args:
        decoder: Language model.
        vision: Vision tower.
        text: Text tower.
        keep: Visual tokens that DeSAP keeps with its default parameters; None: nothing is pruned.
        words: Tokens of the question in the text tower, BOS and EOS included.
        transformers: Whether to count the unsplit model of transformers, with the layer that nothing reads.
    """
    patches = vision.num_patches
    tokens = patches if keep is None else keep
    steps = {
        "vision tower up to the layer that LLaVA reads": vision.up_to_the_last_layer(),
        "the last layer, which it does not read": vision.last_layer() if transformers else 0,
    }
    prunes = 0 if keep is None else 1
    return steps | {
        "decoupled attention of the last layer": prunes * vision.decoupled_branch(),
        "its projection to the joint space": prunes * vision.joint_projection(text.joint_size),
        "attention of CLS in the last layer": prunes * vision.cls_attention(),
        "text tower": prunes * text.whole(words),
        "FCMA": prunes * fcma(patches, words, text.joint_size),
        "merging": prunes * merging(patches, tokens, vision.hidden_size),
        "projector": projector(tokens, vision.hidden_size, decoder.hidden_size),
        "prefill of the visual tokens": decoder.prefill([tokens] * decoder.num_layers),
    }


def _encoder(
    decoder: Decoder, vision: VisionTower, text: TextTower, keeps: Sequence[int], words: int
) -> dict[str, Any]:
    columns = {
        "transformers, unpruned": parts(decoder, vision, text, None, words=words, transformers=True),
        "none": parts(decoder, vision, text, None, words=words),
        **{f"desap, {keep}": parts(decoder, vision, text, keep, words=words) for keep in keeps},
    }
    return {
        "text_tokens": words,
        "columns": columns,
        "last_layer": vision.last_layer(),
        "last_ffn": vision.last_ffn(),
        "last_layer_in_desap": vision.decoupled_branch()
        + vision.joint_projection(text.joint_size)
        + vision.cls_attention(),
        "fcma_as_the_paper_counts": 2 * fcma(vision.num_patches, words, text.joint_size),
    }


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = command_parser("benchmarks.flops", __doc__)
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="directory of a LLaVA whose config.json gives the shapes"
    )
    parser.add_argument(
        "--text-tower", type=Path, metavar="DIR", help="directory of a CLIP for the text tower (default: ViT-L/14)"
    )
    shape = parser.add_argument_group("shape by hand (default: LLaVA-1.5-7B)")
    shape.add_argument("--hidden-size", type=positive, metavar="D", help="hidden size of the language model (4096)")
    shape.add_argument("--intermediate-size", type=positive, metavar="M", help="width inside its FFN (11008)")
    shape.add_argument("--layers", type=positive, metavar="L", help="number of its layers (32)")
    shape.add_argument("--tokens", type=positive, metavar="N", help="visual tokens of an image (576)")
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=positive,
        metavar="K",
        help="visual tokens kept (default: 1/3, 2/9 and 1/9 of all; 192 128 64)",
    )
    parser.add_argument(
        "--tiles",
        type=positive,
        default=5,
        help="tiles of one more column, which has the last budget in each tile (default: %(default)s)",
    )
    parser.add_argument("--text-tokens", type=positive, default=30, help="tokens of a question, for FCMA (default: 30)")
    add_output(parser, budgets=[64], tiles=1)
    args = parser.parse_args(argv)
    by_hand = (args.hidden_size, args.intermediate_size, args.layers, args.tokens)
    if args.model is not None and any(size is not None for size in by_hand):
        parser.error("--model holds the whole shape; leave --hidden-size, --intermediate-size, --layers, --tokens out")
    return parser, args


def _config(folder: Path, model_type: str) -> Any:
    """The configuration in a folder.

    Raises:
        ValueError: The folder holds no configuration of this model type.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no config.json that transformers can read") from error
    if config.model_type != model_type:
        raise ValueError(f"{folder} is a {config.model_type!r} checkpoint; accepted: {model_type!r}")
    return config


def _shapes(args: argparse.Namespace) -> tuple[Decoder, VisionTower, TextTower]:
    text = TextTower() if args.text_tower is None else TextTower.of(_config(args.text_tower, "clip"))
    if args.model is not None:
        config = _config(args.model, "llava")
        if config.vision_config.model_type != "clip_vision_model":
            raise ValueError(f"the vision tower is a {config.vision_config.model_type!r}; accepted: a CLIP one")
        return Decoder.of(config.get_text_config()), VisionTower.of(config.vision_config), text
    given = {"hidden_size": args.hidden_size, "intermediate_size": args.intermediate_size, "num_layers": args.layers}
    given["key_value_size"] = args.hidden_size
    return Decoder(**{name: size for name, size in given.items() if size is not None}), VisionTower(), text


def main(argv: Sequence[str] | None = None) -> int:
    """Counts; prints the report, and writes it into --out."""
    parser, args = _arguments(argv)
    try:
        decoder, vision, text = _shapes(args)
    except ValueError as error:
        parser.error(str(error))
    tokens = args.tokens or vision.num_patches
    budgets = args.budgets or [Budget.ratio(share).resolve(tokens) for share in _SHARES]
    if max(budgets) > tokens:
        parser.error(f"--budgets: 1 to {tokens}, the number of visual tokens")
    settings = [Setting(keep, tokens) for keep in budgets]
    if args.tiles > 1:
        settings.append(Setting(args.tiles * budgets[-1], args.tiles * tokens, args.tiles))
    result = {
        "provenance": provenance("benchmarks.flops"),
        "language_model": dataclasses.asdict(decoder),
        "vision_tower": dataclasses.asdict(vision),
        "text_tower": dataclasses.asdict(text),
        "settings": [{"label": setting.label, **dataclasses.asdict(setting)} for setting in settings],
        "rows": list(_rows(settings, decoder)),
        # Another number of tokens is that of another tower, whose shape is unknown.
        "image": _encoder(decoder, vision, text, budgets, args.text_tokens) if tokens == vision.num_patches else None,
    }
    publish(args.out, "flops", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
