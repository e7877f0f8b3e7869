"""Options of the commands that get answers: second pruner, wire format and sampling."""

from __future__ import annotations

import argparse
from typing import Any, Final

from fovea.cli.options import BUDGET_SHARE
from fovea.cli.parsing import UsageError
from fovea.cli.values import count, json_object, number, seed, text
from fovea.sampling_ranges import SAMPLING_RANGES
from fovea.wire.formats import WIRE_FORMATS

__all__ = ["add_answering", "answer_fields"]

_FIELDS: Final = (
    *("wire_dtype", "max_wire_bytes", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    _add_llm_pruning(parser)
    _add_wire(parser)
    _add_sampling(parser)


def answer_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of the request from these options.

    Raises:
        UsageError: an option of the second pruner is given without the pruner.
    """
    return {name: getattr(args, name) for name in _FIELDS} | {"llm_pruner": _llm_pruner(args)}


def _add_llm_pruning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("second pruner, inside the language model")
    group.add_argument("--llm-pruner", metavar="NAME", help="name from /v1/pruners whose side is llm")
    group.add_argument("--llm-pruner-params", type=json_object, metavar="JSON", help="its parameters, a JSON object")
    budget = group.add_mutually_exclusive_group()
    budget.add_argument(
        "--llm-keep-tokens", type=count, metavar="N", help="visual tokens to keep of all images together"
    )
    budget.add_argument("--llm-keep-ratio", type=BUDGET_SHARE, metavar="SHARE", help="or the share of them to keep")


def _add_wire(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("link between encoder service and LLM service")
    group.add_argument(
        "--wire-dtype", choices=tuple(WIRE_FORMATS), help="wire format of visual tokens (default: the gateway's)"
    )
    group.add_argument(
        "--max-wire-bytes",
        type=count,
        metavar="N",
        help="most bytes of visual tokens; number of tokens and wire format are chosen to fit",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answer")
    sampling = {name: number(f"a number from {range_}", range_.accepts) for name, range_ in SAMPLING_RANGES.items()}
    group.add_argument("--max-tokens", type=count, metavar="N", help="longest answer, in tokens (default: 128)")
    group.add_argument(
        "--temperature",
        type=sampling["temperature"],
        metavar="T",
        help="0 is greedy, up to 2 (default: the server's, 0)",
    )
    group.add_argument(
        "--top-p",
        type=BUDGET_SHARE,
        metavar="P",
        help="sample from the likeliest tokens with this probability together",
    )
    group.add_argument("--top-k", type=count, metavar="N", help="sample from this many of the likeliest tokens")
    group.add_argument(
        "--min-p",
        type=sampling["min_p"],
        metavar="P",
        help="sample from tokens at least this share as likely as the likeliest",
    )
    group.add_argument(
        "--repetition-penalty",
        type=sampling["repetition_penalty"],
        metavar="X",
        help="above 1: fewer repetitions of question and answer (default: the checkpoint's)",
    )
    group.add_argument(
        "--presence-penalty", type=sampling["presence_penalty"], metavar="X", help="above 0: fewer words said before"
    )
    group.add_argument(
        "--frequency-penalty", type=sampling["frequency_penalty"], metavar="X", help="above 0: fewer words said often"
    )
    group.add_argument("--seed", type=seed, metavar="N", help="makes sampling repeatable")
    group.add_argument(
        "--stop",
        action="append",
        type=text,
        metavar="TEXT",
        help="end the answer before this text; may be given 8 times",
    )


def _llm_pruner(args: argparse.Namespace) -> dict[str, Any] | None:
    options = {
        "keep_tokens": args.llm_keep_tokens,
        "keep_ratio": args.llm_keep_ratio,
        "params": args.llm_pruner_params,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if args.llm_pruner is not None:
        return {"name": args.llm_pruner, **options}
    if options:
        raise UsageError("--llm-keep-tokens, --llm-keep-ratio and --llm-pruner-params go with --llm-pruner")
    return None
