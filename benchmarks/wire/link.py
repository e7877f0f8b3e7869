"""`python -m benchmarks.link`: cost of a narrow link between edge and cloud, and the gain from sending kept tokens.

Two network namespaces of this machine are joined by a link of limited rate (`namespaces.py`; needs root). Three ways to
answer the same questions about the same JPEG files:

* ours: gateway and encoder at the edge, the LLM service in the cloud; kept tokens cross the link
* unpruned: the same arrangement, nothing pruned, float16
* jpeg: all three services in the cloud; the client at the edge sends the file, and nothing is pruned

Two further parts measure messages of visual tokens of LLaVA-1.5-7B's size, without a model, and an answer whose link is
cut while it streams.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.harness.arguments import add_seed, command_parser
from benchmarks.harness.images import jpeg
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.harness.pruning import PRUNING
from benchmarks.wire.link_report import UNPRUNED, report
from benchmarks.wire.link_sites import EdgeClient, cloud_stack, split_stack
from benchmarks.wire.link_transfer import TRANSFER_DTYPES
from benchmarks.wire.namespaces import CLOUD_ADDRESS, NarrowLink, why_not
from fovea.processes.stack import Stack
from fovea.wire.formats import WIRE_FORMATS
from lab.questions import evaluation_questions

__all__ = ["main"]

_PARTS: Final = ("answers", "transfers", "cut")
_CRAWL_MBIT_S: Final = 0.008  # slow enough that text is still on its way when the link is cut
_MBIT_S: Final = 20.0  # before and after the cut


def _questions(options: argparse.Namespace) -> list[tuple[bytes, str]]:
    """JPEG files and the texts of questions about them."""
    questions = evaluation_questions("easy", options.seed, options.answers, groups=("existence",))
    return [(jpeg(question.image, options.quality), question.text) for question in questions]


def _answers(
    link: NarrowLink, options: argparse.Namespace, questions: Sequence[tuple[bytes, str]], split: Stack, log: Path
) -> list[dict[str, Any]]:
    """Rows of the three ways at each rate."""
    rows = []
    with cloud_stack(link, log) as cloud:
        clients = {
            f"ours, {options.pruner}, {dtype}": EdgeClient(
                link, split.url, {"pruner": options.pruner, "keep_ratio": str(options.keep_ratio), "wire_dtype": dtype}
            )
            for dtype in options.wire_dtypes
        }
        clients["unpruned, float16"] = EdgeClient(link, split.url, {"pruner": "none", "wire_dtype": "float16"})
        clients[f"jpeg, quality {options.quality}"] = EdgeClient(link, cloud.url, {"pruner": "none"})
        for mbit_s in options.mbit_s:
            link.limit(mbit_s)
            for name, client in clients.items():
                rows.append({"mbit_s": mbit_s, "way": name, **client.measure(questions, options.concurrency)})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def _transfers(link: NarrowLink, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of messages of LLaVA-1.5-7B's size, sent one at a time: the unpruned ones, then the kept tokens."""
    link.limit(options.transfer_mbit_s)
    words = [sys.executable, "-m", "benchmarks.wire.link_transfer"]
    address = f"{CLOUD_ADDRESS}:50060"
    with link.at("cloud"):
        sink = subprocess.Popen([*words, "sink", address], stdout=subprocess.PIPE, text=True)
    payloads = dict(UNPRUNED)
    payloads |= {f"64 kept, as {dtype}": (64, 1024, dtype) for dtype in options.transfer_dtypes}
    rows: list[dict[str, Any]] = []
    try:
        assert sink.stdout is not None
        if sink.stdout.readline().strip() != "ready":
            raise RuntimeError("the sink did not start")
        for name, (count, channels, dtype) in payloads.items():
            before = link.traffic()
            numbers = [str(count), str(channels), dtype, str(options.transfers)]
            with link.at("edge"):
                sender = subprocess.run([*words, "send", address, *numbers], check=True, capture_output=True, text=True)
            sent, after = json.loads(sender.stdout), link.traffic()
            rows.append(
                {
                    "what": name,
                    "shape": [count, channels],
                    "dtype": dtype,
                    "message_bytes": sent["message_bytes"],
                    "link_bytes": round((after.both - before.both) / options.transfers),
                    "p50_s": round(float(np.median(sent["seconds"])), 4),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    finally:
        sink.send_signal(signal.SIGTERM)
        sink.communicate(timeout=30)
    return rows


def _cut(link: NarrowLink, options: argparse.Namespace, split: Stack) -> dict[str, Any]:
    """The row of an answer whose link is cut for `--cut-s` seconds after its first piece of text."""
    question = evaluation_questions("crowded", options.seed, 8)[0]
    form = {"question": "What do you see?", "cache": "bypass", "timeout_s": "300", "stream": "true", **PRUNING}
    with link.at("edge"):
        link.limit(_MBIT_S)
        with httpx.Client(base_url=split.url, timeout=310, trust_env=False) as http:
            files = {"image": ("image.jpg", jpeg(question.image, options.quality))}
            uncut = http.post("/v1/answer", data={**form, "stream": "false"}, files=files).json()["answer"]
            link.limit(_CRAWL_MBIT_S)
            pieces, back_at, first_after = [], 0.0, 0.0
            with http.stream("POST", "/v1/answer", data=form, files=files) as response:
                for line in response.iter_lines():
                    if not line.startswith("data: "):
                        continue
                    data = json.loads(line.removeprefix("data: "))
                    if back_at and not first_after:
                        first_after = time.perf_counter()
                    if "text" not in data:
                        if "answer" not in data:
                            raise RuntimeError(f"the answer failed: {data}")
                        break
                    pieces.append(data["text"])
                    if not back_at:
                        back_at = _cut_for(link, options.cut_s)
    return {
        "cut_s": options.cut_s,
        "next_text_after_return_s": round(first_after - back_at, 2),
        "same_answer_as_without_a_cut": "".join(pieces) == data["answer"] == uncut,
    }


def _cut_for(link: NarrowLink, seconds: float) -> float:
    """Cuts the link for some seconds; returns the time at which it is back, on the clock of `time.perf_counter`."""
    link.cut()
    time.sleep(seconds)
    link.limit(_MBIT_S)
    link.mend()
    return time.perf_counter()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.link", __doc__)
    parser.add_argument("--parts", nargs="+", default=_PARTS, choices=_PARTS)
    parser.add_argument("--mbit-s", type=float, nargs="+", default=[1, 5, 20, 100], help="rates of the link")
    parser.add_argument("--pruner", default="desap")
    parser.add_argument("--keep-ratio", type=float, default=0.111)
    parser.add_argument("--wire-dtypes", nargs="+", default=["float16"], choices=WIRE_FORMATS)
    parser.add_argument("--answers", type=int, default=40, help="questions for each rate and way")
    parser.add_argument("--concurrency", type=int, default=4, help="clients, for answers per minute")
    parser.add_argument("--quality", type=int, default=90, help="quality of the JPEG files")
    parser.add_argument("--transfer-mbit-s", type=float, default=5.0)
    parser.add_argument("--transfer-dtypes", nargs="+", default=list(TRANSFER_DTYPES), choices=TRANSFER_DTYPES)
    parser.add_argument("--transfers", type=int, default=5, help="messages of each kind")
    parser.add_argument("--cut-s", type=float, default=30.0)
    add_seed(parser, 5, "the evaluation images")
    add_output(
        parser,
        mbit_s=[100.0],
        wire_dtypes=["float16"],
        answers=1,
        concurrency=1,
        cut_s=1.0,
        transfer_mbit_s=100.0,
        transfer_dtypes=["int8", "entropy"],
        transfers=1,
        parts=list(_PARTS),
    )
    return parser.parse_args(argv)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    questions = _questions(options)
    result: dict[str, Any] = {
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "questions": len(questions),
        "image_bytes": round(float(np.mean([len(image) for image, _ in questions]))),
    }
    with NarrowLink() as link, tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        if "transfers" in options.parts:
            result["transfers"] = _transfers(link, options)
        if {"answers", "cut"} & set(options.parts):
            with split_stack(link, log) as split:
                if "answers" in options.parts:
                    result["answers"] = _answers(link, options, questions, split, log)
                if "cut" in options.parts:
                    result["cut"] = _cut(link, options, split)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the report, and writes it into --out. Exit status 1 where no link can be made."""
    options = _arguments(argv)
    if reason := why_not():
        print(f"python -m benchmarks.link: {reason}", file=sys.stderr)
        return 1
    result = {"provenance": provenance("benchmarks.link"), **_measure(options)}
    publish(options.out, "link", result, report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
