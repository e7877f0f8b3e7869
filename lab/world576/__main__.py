"""One call that trains and evaluates both models: `lab/world576/train.sh`, or `python -m lab.world576`.

A call ends after its minutes, with exit status 75 where something is left to do. The next call goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from lab.checkpoint import save_clip, save_llava
from lab.models import build_clip, build_llava
from lab.world576 import pool
from lab.world576.card import card
from lab.world576.composition import Composer
from lab.world576.evaluate import evaluate
from lab.world576.loop import Trainer, pace, train
from lab.world576.parts import load_progress
from lab.world576.plan import CALL_MINUTES, Clock, allowed_steps, plan_text, stage_minutes
from lab.world576.recipe import FULL, SMALL, Recipe
from lab.world576.texts import train_tokenizers
from lab.world576.train_clip import ClipTrainer
from lab.world576.train_llava import LlavaTrainer

RESUME: Final = 75
"""Exit status of a call that ran out of time (`EX_TEMPFAIL`)."""


class Run:
    """A training in a folder.

    Args:
        recipe: recipe.
        work: folder of the pool, the states and `checkpoints`.
        device: device of the training.
        clock: time of this call.
        minutes: minutes of this call.
        seed: seed of weights and batches.
    """

    def __init__(
        self, recipe: Recipe, work: Path, device: torch.device, clock: Clock, minutes: float, seed: int = 0
    ) -> None:
        self.recipe, self.work, self.device = recipe, work, device
        self.clock, self.minutes, self.seed = clock, minutes, seed
        self.checkpoints = work / "checkpoints"
        self.composer = Composer(device)

    def __call__(self) -> bool:
        """Runs the stages that are left. Returns whether all are done."""
        self._tokenizers()
        file = self.work / "pool.npz"
        if not file.exists():
            workers = (os.cpu_count() or 1) if self.recipe.measured else 1
            pool.build(file, self.checkpoints / "clip", self.checkpoints / "llava", self.recipe.scenes, workers)
            print(f"data: {self.recipe.scenes} scenes, {self.clock.seconds:.0f}s", flush=True)
        scenes = pool.load(file)

        def clip_trainer() -> Trainer:
            return ClipTrainer(self.recipe, scenes, self._tokenizer("clip"), self.composer, self.seed)

        def llava_trainer() -> Trainer:
            clip = CLIPModel.from_pretrained(self.checkpoints / "clip", dtype=torch.float32)
            return LlavaTrainer(self.recipe, scenes, clip, self._tokenizer("llava"), self.composer, self.seed)

        return (
            self._train("clip", clip_trainer, self.recipe.most_clip_steps)
            and self._train("llava", llava_trainer, self.recipe.most_llava_steps)
            and self._evaluate()
        )

    def _tokenizer(self, name: str) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(self.checkpoints / name)

    def _tokenizers(self) -> None:
        """Trains the tokenizers and writes untrained checkpoints with them."""
        if not (self.checkpoints / "llava" / "tokenizer.json").exists():
            clip, llava = train_tokenizers(self.recipe.tokenizer_scenes)
            save_clip(build_clip(clip, size=self.recipe.size), clip, self.checkpoints / "clip")
            save_llava(build_llava(llava, size=self.recipe.size), llava, self.checkpoints / "llava")

    def _train(self, name: str, make: Callable[[], Trainer], most: int) -> bool:
        def choose_steps() -> int:
            if not self.recipe.measured:
                return most
            seconds = pace(make)
            steps = allowed_steps(stage_minutes(name, self.clock, self.minutes), seconds, most)
            print(f"{name}: {seconds * 1000:.0f} ms a step, so {steps} steps", flush=True)
            return steps

        state, checkpoint = self.work / f"state-{name}", self.checkpoints / name
        return train(make, state, checkpoint, choose_steps, self.clock, self.device, self.recipe.saves)

    def _evaluate(self) -> bool:
        file = self.checkpoints / "figures.json"
        if file.exists():
            return True
        if self.clock.over:
            return False
        batch = 64 if self.device.type == "cpu" else 256
        figures = evaluate(self.checkpoints / "llava", self.composer, 0, self.recipe.evaluation_scenes, batch)
        progress = {name: load_progress(self.checkpoints / name) for name in ("clip", "llava")}
        steps = {name: done[1] for name, done in progress.items() if done}
        (self.checkpoints / "README.md").write_text(card(self.checkpoints, figures, self.recipe, steps))
        file.write_text(json.dumps(figures, indent=2) + "\n")
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the training. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.world576", description="Trains and evaluates both models.")
    parser.add_argument(
        "--work", type=Path, default=Path("build/world576"), help="folder of all that is kept between calls"
    )
    parser.add_argument("--minutes", type=float, default=CALL_MINUTES, help="minutes of this call")
    parser.add_argument("--small", action="store_true", help="a tiny training that tests the whole, on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    clock = Clock.start(options.minutes)
    recipe = SMALL if options.small else FULL
    print(plan_text(options.minutes, recipe.scenes, options.device), flush=True)
    run = Run(recipe, options.work, torch.device(options.device), clock, options.minutes, options.seed)
    done = run()
    print(f"{'done' if done else 'out of time: call again'} after {clock.seconds:.0f}s", flush=True)
    return 0 if done else RESUME


if __name__ == "__main__":
    sys.exit(main())
