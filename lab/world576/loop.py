"""The loop of a training: resume, steps, log lines, saves, and the end of a call's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor

from lab.optimizer import MasterOptimizer
from lab.world576.parts import load_optimizer, load_progress, save_optimizer, save_progress
from lab.world576.plan import Clock

LOG_EVERY: Final = 50
_WARM_UP, _TIMED = 5, 10


class Trainer(Protocol):
    """A model with its optimizer. The batch of a step depends on the seed and the step only."""

    optimizer: MasterOptimizer

    def step(self, step: int, steps: int) -> dict[str, Tensor]:
        """Takes one step. Returns scalars on the device, named "a" for a mean, or "a/sum" and "a/n" for a ratio."""

    def adopt(self, checkpoint: Path) -> None:
        """Takes over the weights of a checkpoint."""

    def save(self, checkpoint: Path) -> None:
        """Writes the checkpoint and prints a report."""


def pace(make: Callable[[], Trainer]) -> float:
    """Seconds per step, measured on a trainer that is thrown away."""
    trainer = make()
    began = 0.0
    for step in range(_WARM_UP + _TIMED):
        if step == _WARM_UP:
            began = time.perf_counter()
        trainer.step(step, 10**6)  # reads the norm of the gradient, which waits for the device
    return (time.perf_counter() - began) / _TIMED


def _line(sums: dict[str, Tensor], n: int) -> str:
    words = []
    for name, value in sums.items():
        if name.endswith("/sum"):
            count = sums[f"{name.removesuffix('/sum')}/n"].item()
            if count:
                words.append(f"{name.removesuffix('/sum')}={100 * value.item() / count:.0f}%")
        elif not name.endswith("/n"):
            words.append(f"{name}={value.item() / n:.3f}")
    return " ".join(words)


def train(
    make: Callable[[], Trainer],
    state: Path,
    checkpoint: Path,
    choose_steps: Callable[[], int],
    clock: Clock,
    device: torch.device,
    saves: int,
) -> bool:
    """Trains up to the last step or to the end of the clock's time. Returns whether the run is complete.

    Args:
        make: maker of a fresh trainer.
        state: folder of the state, from which a run is resumed exactly.
        checkpoint: folder of the checkpoint, from whose weights a run is resumed where there is no state.
        choose_steps: number of steps of a run that begins.
        clock: time of the call.
        device: device of the training.
        saves: number of saves of a whole run.
    """
    progress = load_progress(checkpoint)
    if progress is not None and progress[0] >= progress[1]:
        print(f"{checkpoint.name}: trained, {progress[1]} steps", flush=True)
        return True
    trainer = make()
    resumed = load_optimizer(state, trainer.optimizer, device)
    if resumed is not None:
        print(f"{checkpoint.name}: resumed at step {resumed[0]} of {resumed[1]}", flush=True)
    elif progress is not None:
        trainer.adopt(checkpoint)
        resumed = progress
        print(f"{checkpoint.name}: resumed at step {progress[0]} from the weights alone; moments are zero", flush=True)
    step, steps = resumed or (0, choose_steps())
    every = max(1, steps // saves)
    sums: dict[str, Tensor] = {}
    summed = 0
    while step < steps and not clock.over:
        for name, value in trainer.step(step, steps).items():
            sums[name] = sums.get(name, 0) + value.detach().float()
        step, summed = step + 1, summed + 1
        if step % LOG_EVERY == 0 or step == steps:
            print(f"{checkpoint.name} {step}/{steps} {clock.seconds:.0f}s {_line(sums, summed)}", flush=True)
            sums, summed = {}, 0
        if step % every == 0 and step < steps:
            _save(trainer, state, checkpoint, step, steps)
    _save(trainer, state, checkpoint, step, steps)
    return step >= steps


def _save(trainer: Trainer, state: Path, checkpoint: Path, step: int, steps: int) -> None:
    save_optimizer(state, trainer.optimizer, step, steps)
    trainer.save(checkpoint)
    save_progress(checkpoint, step, steps)
