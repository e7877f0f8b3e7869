"""Training of the small model: `python -m lab train` renders the images and trains CLIP and LLaVA.

Checkpoints are written to --out. Each stage (`data`, `clip`, `llava`) can be run alone, is seeded, and resumes after an
interruption.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from lab import dataset, question_pool, train_clip, train_llava
from lab.checkpoint import save_clip, save_llava
from lab.models import build_clip, build_llava
from lab.tokenizers import train_clip_tokenizer, train_llava_tokenizer


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _data(options: argparse.Namespace) -> None:
    if not (options.out / "llava" / "tokenizer.json").exists():
        clip_tokenizer, tokenizer = train_clip_tokenizer(), train_llava_tokenizer()
        save_clip(build_clip(clip_tokenizer), clip_tokenizer, options.out / "clip")
        save_llava(build_llava(tokenizer), tokenizer, options.out / "llava")
    folder = options.work / "data"
    if not (folder / "scenes.pickle").exists():
        dataset.build(folder, options.pictures, options.workers)
    if not (folder / "captions.npz").exists():
        question_pool.build(folder, options.out / "llava", options.pictures, options.workers)


def _clip(options: argparse.Namespace) -> None:
    train_clip.train(options.work, options.out, _tokenizer(options.out / "clip"), options.clip_steps, options.seed)


def _llava(options: argparse.Namespace) -> None:
    clip = CLIPModel.from_pretrained(options.out / "clip", dtype=torch.float32)
    tokenizer = _tokenizer(options.out / "llava")
    train_llava.train(options.work, options.out, clip, tokenizer, options.llava_steps, options.seed)


STAGES = {"data": _data, "clip": _clip, "llava": _llava}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("stage", choices=["train", *STAGES], help="train: all three in turn")
    parser.add_argument("--work", type=Path, default=Path("runs/lab"), help="folder for images, features and state")
    parser.add_argument("--out", type=Path, help="folder for the checkpoints (default: checkpoints in --work)")
    parser.add_argument("--pictures", type=int, default=48_000)
    parser.add_argument("--clip-steps", type=int, default=train_clip.STEPS)
    parser.add_argument("--llava-steps", type=int, default=train_llava.STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    options = parser.parse_args(arguments)
    options.out = options.out or options.work / "checkpoints"
    torch.set_num_threads(options.threads)
    seconds = {}
    for stage in STAGES if options.stage == "train" else (options.stage,):
        start = time.time()
        STAGES[stage](options)
        seconds[stage] = round(time.time() - start)
    print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
