"""`python -m lab.calibration_images DIR`: fresh images as PNG files, half easy, half crowded, to learn a wire basis."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lab.render import render
from lab.scenes import Split, evaluation_seed, sample_scene

SPLITS: tuple[Split, ...] = ("easy", "crowded")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m lab.calibration_images`."""
    parser = argparse.ArgumentParser(prog="python -m lab.calibration_images", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=901, help="evaluation seed; no result uses the default")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for index in range(options.count):
        scene = sample_scene(SPLITS[index % 2], evaluation_seed(options.seed, index))
        render(scene).save(options.folder / f"{index:05}.png")


if __name__ == "__main__":
    main()
