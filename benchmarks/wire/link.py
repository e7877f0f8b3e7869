"""`python -m benchmarks.link`: what a narrow link between edge and cloud costs, and what it is worth to ship tokens.

Two network namespaces of this machine are joined by a link limited to so many Mbit/s (`namespaces.py`; needs root).
Three ways to answer the same questions about the same JPEG files:

* ours: gateway and encoder at the edge, the LLM service in the cloud; pruned tokens cross the link
* unpruned: the same, nothing pruned, float16
* jpeg: all three services in the cloud; the client at the edge sends the file, and nothing is pruned

Then messages of visual tokens of LLaVA-1.5-7B's size, without a model, and an answer whose link is cut while it
streams.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.wire.link_report import UNPRUNED, report
from benchmarks.wire.link_transfer import TRANSFER_DTYPES
from benchmarks.wire.namespaces import CLOUD_ADDRESS, NarrowLink, why_not
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.processes.stack import Stack
from fovea.wire.tensors import DTYPES
from lab.questions import Question, evaluation_questions

__all__ = ["main"]

_PARTS: Final = ("answers", "transfers", "cut")
_STARTUP_S: Final = 240.0
_CRAWL_MBIT_S: Final = 0.008
# Every question costs the vision tower, as one about a new picture does.
_NO_FEATURES: Final = {"encoder_service": ["--feature-cache-bytes", "0"]}


def _jpeg(question: Question, quality: int) -> bytes:
    file = io.BytesIO()
    question.image.save(file, "JPEG", quality=quality)
    return file.getvalue()


class _Site:
    """A client at the edge, and how it asks."""

    def __init__(self, link: NarrowLink, url: str, fields: dict[str, str]) -> None:
        self.link = link
        self.url = url
        self.fields = {"cache": "bypass", "timeout_s": "300", **fields}

    def measure(self, asked: Sequence[tuple[bytes, str]], concurrency: int) -> dict[str, Any]:
        """Latency of one after the other, bytes of these, then answers per minute of `concurrency` clients at once."""
        with self.link.at("edge"):
            return asyncio.run(self._measure(asked, concurrency))

    async def _measure(self, asked: Sequence[tuple[bytes, str]], concurrency: int) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.url, timeout=310, trust_env=False) as http:
            kept = (await self._ask(http, *asked[0]))["usage"]["visual_tokens_kept"]  # connects, and warms up
            before, seconds = self.link.traffic(), []
            for picture, question in asked:
                start = time.perf_counter()
                await self._ask(http, picture, question)
                seconds.append(time.perf_counter() - start)
            after = self.link.traffic()
            waiting, start = iter(asked), time.perf_counter()

            async def client() -> None:
                for picture, question in waiting:
                    await self._ask(http, picture, question)

            await asyncio.gather(*(client() for _ in range(concurrency)))
            minutes = (time.perf_counter() - start) / 60
        return {
            "visual_tokens_kept": kept,
            "p50_ms": round(float(np.percentile(seconds, 50)) * 1000, 1),
            "p95_ms": round(float(np.percentile(seconds, 95)) * 1000, 1),
            "bytes_to_cloud": round((after.to_cloud - before.to_cloud) / len(asked)),
            "bytes_to_edge": round((after.to_edge - before.to_edge) / len(asked)),
            "answers_per_minute": round(len(asked) / minutes, 1),
        }

    async def _ask(self, http: httpx.AsyncClient, picture: bytes, question: str) -> dict[str, Any]:
        form = {"question": question, **self.fields}
        response = await http.post("/v1/answer", data=form, files={"image": ("picture.jpg", picture)})
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


def _stack(log: Path, listen: str, flags: dict[str, list[str]]) -> Stack:
    return Stack(
        str(shipped_checkpoint("llava")),
        str(shipped_checkpoint("clip")),
        listen=listen,
        name="fovea-lab",
        flags=flags,
        environment={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        log_to=log,
    )


@contextmanager
def _split_stack(link: NarrowLink, log: Path) -> Iterator[Stack]:
    """The LLM service in the cloud, the other two at the edge."""
    stack = _stack(log, "127.0.0.1:8000", {"gateway": ["--patience-s", "120"], **_NO_FEATURES})
    stack.llm_address = f"{CLOUD_ADDRESS}:50052"
    try:
        with link.at("cloud"):
            stack.start("llm_service")
        with link.at("edge"):
            stack.start("encoder_service", "gateway")
            stack.wait_ready(_STARTUP_S)
        yield stack
    finally:
        stack.stop()


@contextmanager
def _cloud_stack(link: NarrowLink, log: Path) -> Iterator[Stack]:
    """All three in the cloud."""
    stack = _stack(log, f"{CLOUD_ADDRESS}:8000", _NO_FEATURES)
    try:
        with link.at("cloud"):
            stack.start()
            stack.wait_ready(_STARTUP_S)
        yield stack
    finally:
        stack.stop()


def _asked(options: argparse.Namespace) -> list[tuple[bytes, str]]:
    questions = evaluation_questions("easy", options.seed, options.answers, groups=("existence",))
    return [(_jpeg(question, options.quality), question.text) for question in questions]


def _answers(
    link: NarrowLink, options: argparse.Namespace, asked: Sequence[tuple[bytes, str]], split: Stack, log: Path
) -> list[dict[str, Any]]:
    rows = []
    with _cloud_stack(link, log) as cloud:
        sites = {
            f"ours, {options.pruner}, {dtype}": _Site(
                link, split.url, {"pruner": options.pruner, "keep_ratio": str(options.keep_ratio), "wire_dtype": dtype}
            )
            for dtype in options.wire_dtypes
        }
        sites["unpruned, float16"] = _Site(link, split.url, {"pruner": "none", "wire_dtype": "float16"})
        sites[f"jpeg, quality {options.quality}"] = _Site(link, cloud.url, {"pruner": "none"})
        for mbit_s in options.mbit_s:
            link.limit(mbit_s)
            for name, site in sites.items():
                rows.append({"mbit_s": mbit_s, "way": name, **site.measure(asked, options.concurrency)})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def _transfers(link: NarrowLink, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Messages of LLaVA-1.5-7B's size, one at a time, against the unpruned ones."""
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
                done = subprocess.run([*words, "send", address, *numbers], check=True, capture_output=True, text=True)
            sent, after = json.loads(done.stdout), link.traffic()
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
    """One answer whose link is cut for `--cut-s` seconds after its first piece of text."""
    question = evaluation_questions("crowded", options.seed, 8)[0]
    form = {"question": "What do you see?", "cache": "bypass", "timeout_s": "300", "stream": "true"}
    with link.at("edge"):
        link.limit(20.0)
        with httpx.Client(base_url=split.url, timeout=310, trust_env=False) as http:
            picture = {"image": ("picture.jpg", _jpeg(question, options.quality))}
            whole = http.post("/v1/answer", data={**form, "stream": "false"}, files=picture).json()["answer"]
            link.limit(_CRAWL_MBIT_S)
            pieces, back_at, first_after = [], 0.0, 0.0
            with http.stream("POST", "/v1/answer", data=form, files=picture) as response:
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
                        link.cut()
                        time.sleep(options.cut_s)
                        link.limit(20.0)
                        link.mend()
                        back_at = time.perf_counter()
    return {
        "cut_s": options.cut_s,
        "next_text_after_return_s": round(first_after - back_at, 2),
        "same_answer_as_without_a_cut": "".join(pieces) == data["answer"] == whole,
    }


def main(argv: list[str] | None = None) -> int:
    """Prints the report, and writes it where --out says. Exit status 0; 1 where no link can be made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.link", description="A narrow link, measured.")
    parser.add_argument("--parts", nargs="+", default=_PARTS, choices=_PARTS)
    parser.add_argument("--mbit-s", type=float, nargs="+", default=[1, 5, 20, 100])
    parser.add_argument("--pruner", default="desap")
    parser.add_argument("--keep-ratio", type=float, default=0.111)
    parser.add_argument("--wire-dtypes", nargs="+", default=["float16"], choices=DTYPES)
    parser.add_argument("--answers", type=int, default=40, help="questions a rate and way")
    parser.add_argument("--concurrency", type=int, default=4, help="clients, for answers per minute")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG files")
    parser.add_argument("--transfer-mbit-s", type=float, default=5.0)
    parser.add_argument("--transfer-dtypes", nargs="+", default=list(TRANSFER_DTYPES), choices=TRANSFER_DTYPES)
    parser.add_argument("--transfers", type=int, default=5, help="messages of each kind")
    parser.add_argument("--cut-s", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=5)
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
    options = parser.parse_args(argv)
    reason = why_not()
    if reason:
        print(f"python -m benchmarks.link: {reason}", file=sys.stderr)
        return 1
    facts, asked = provenance("benchmarks.link"), _asked(options)
    with NarrowLink() as link, tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        result: dict[str, Any] = {
            "provenance": facts,
            "options": {name: value for name, value in vars(options).items() if name != "out"},
            "questions": len(asked),
            "picture_bytes": round(float(np.mean([len(picture) for picture, _ in asked]))),
        }
        if "transfers" in options.parts:
            result["transfers"] = _transfers(link, options)
        if {"answers", "cut"} & set(options.parts):
            with _split_stack(link, log) as split:
                if "answers" in options.parts:
                    result["answers"] = _answers(link, options, asked, split, log)
                if "cut" in options.parts:
                    result["cut"] = _cut(link, options, split)
    publish(options.out, "link", result, report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
