"""Composition of batches of images on a device, by torch, in float32.

A scene becomes a row of *layers*, one for each thing and for each glyph on a sign, in the order in which they are
painted. Every random choice is in the scene, or is drawn from its seed by numpy. So a seed gives the same image in a
batch of any size, and on any device within a grey level. A layer is sampled bilinearly from the texture of
`lab.world576.atlas`, inside a window around its centre, and painted over the canvas with its alpha.

`python -m lab.world576.composition --benchmark` prints how many images a second it makes;
`--contact-sheet FILE` writes a picture of twelve scenes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lab.world576.atlas import LEVEL_SIDES, SPRITE_INDEX, texture
from lab.world576.kinds import COLORS, GREY
from lab.world576.scenes import BACKGROUNDS, IMAGE_SIZE, MAX_SIGNS, MAX_THINGS, Scene, Thing, sample_scene

MAX_LAYERS: Final = MAX_THINGS + 4 * MAX_SIGNS
# Sprite and level (integers), centre, size, cosine and sine of the angle, mirror (1 or -1), tint (0 or 1), its colour.
LAYER_FIELDS: Final = 12
_GRIDS: Final = (7, 28)  # sides of the coarse and the fine grid of random values that clouds are made of
_GLYPH_CELL, _GLYPH_ADVANCE = 0.29, 0.205  # of the size of the sign
_DARK: Final = ("red", "green", "blue", "purple")  # colours of signs on which the text is white
_BACKGROUND_FIELDS: Final = 16


@dataclass(frozen=True)
class PackedScenes:
    """Scenes as arrays, ready to be composed.

    Attributes:
        layers: fields of each layer, `[N, MAX_LAYERS, LAYER_FIELDS]` float32.
        counts: number of layers of each scene, `[N]` int64.
        backgrounds: two colours, weights of the patterns, direction, period and phases, `[N, 16]` float32.
        clouds: both grids of random values in -127..127, `[N, 7 * 7 + 28 * 28]` int8.
    """

    layers: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    backgrounds: npt.NDArray[np.float32]
    clouds: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.counts)

    def select(self, index: npt.NDArray[np.int64] | slice) -> PackedScenes:
        """Scenes of some indices."""
        return PackedScenes(*(getattr(self, field.name)[index] for field in fields(self)))


def _layer(
    sprite: str, thing: Thing, x: float, y: float, size: float, tint: tuple[int, int, int] | None
) -> list[float]:
    level = max(depth for depth, side in enumerate(LEVEL_SIDES) if depth == 0 or side >= 0.9 * size)
    angle = np.deg2rad(thing.angle)
    color = [channel / 255 for channel in tint or (0, 0, 0)]
    mirror = -1.0 if thing.mirrored else 1.0
    return [
        SPRITE_INDEX[sprite],
        level,
        x,
        y,
        size,
        np.cos(angle),
        np.sin(angle),
        mirror,
        float(tint is not None),
        *color,
    ]


def _layers(scene: Scene) -> list[list[float]]:
    rows, glyphs = [], []
    for thing in scene.things:
        tint = COLORS[thing.look] if thing.look else (GREY if thing.distractor and scene.tinted else None)
        rows.append(_layer(thing.kind, thing, thing.x, thing.y, thing.size, tint))
        angle = np.deg2rad(thing.angle)
        ink = (255, 255, 255) if thing.look in _DARK else None
        for place, character in enumerate(thing.text):
            along = (place - (len(thing.text) - 1) / 2) * _GLYPH_ADVANCE * thing.size
            x, y = thing.x + along * np.cos(angle), thing.y + along * np.sin(angle)
            glyphs.append(_layer(f"glyph {character}", thing, x, y, _GLYPH_CELL * thing.size, ink))
    # Signs are the last things, so all glyphs may follow: nothing lies between a sign and its text.
    return rows + glyphs


def _background(scene: Scene, rng: np.random.Generator) -> list[float]:
    """Parameters of the background. Its colours are pale or dull, so that no tint is like them."""
    first, second = (rng.uniform(0.35, 0.85) + rng.uniform(-0.12, 0.12, 3) for _ in range(2))
    weights = dict.fromkeys(BACKGROUNDS, 0.0) | {scene.background: 1.0}
    angle = rng.random() * np.pi
    period = rng.uniform(18, 60)
    shape = [np.cos(angle) / period, np.sin(angle) / period, float(rng.integers(512)), float(rng.integers(512))]
    return [*first, *second, *(weights[name] for name in BACKGROUNDS), *shape, rng.uniform(0.05, 0.16)]


def pack(scenes: Sequence[Scene]) -> PackedScenes:
    """Arrays of scenes."""
    layers = np.zeros((len(scenes), MAX_LAYERS, LAYER_FIELDS), dtype=np.float32)
    counts = np.zeros(len(scenes), dtype=np.int64)
    backgrounds = np.zeros((len(scenes), _BACKGROUND_FIELDS), dtype=np.float32)
    clouds = np.zeros((len(scenes), sum(side**2 for side in _GRIDS)), dtype=np.int8)
    for row, scene in enumerate(scenes):
        rng = np.random.default_rng([scene.seed, 77])
        filled = np.array(_layers(scene), dtype=np.float32).reshape(-1, LAYER_FIELDS)
        layers[row, : len(filled)] = filled
        counts[row] = len(filled)
        backgrounds[row] = _background(scene, rng)
        clouds[row] = rng.integers(-127, 128, clouds.shape[1])
    return PackedScenes(layers, counts, backgrounds, clouds)


class Composer:
    """Composer of images on one device, with the texture and a fixed grain in its memory."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        atlas = texture()
        height, width = atlas.values.shape[1:]
        self._texture = torch.from_numpy(atlas.values)[None].to(self.device)
        self._centres = torch.from_numpy(atlas.centres).to(self.device)
        self._sides = torch.tensor(LEVEL_SIDES, dtype=torch.float32, device=self.device)
        self._scale = torch.tensor([2 / width, 2 / height], device=self.device)
        grain = np.random.default_rng(576).standard_normal((512, 512), dtype=np.float32)
        self._grain = torch.from_numpy(grain).to(self.device)

    @torch.no_grad()
    def __call__(self, scenes: PackedScenes) -> Tensor:
        """Images of scenes, `[B, 3, 336, 336]` uint8 on the composer's device."""
        backgrounds = self._to_device(scenes.backgrounds)
        canvas = self._paint_backgrounds(backgrounds, self._to_device(scenes.clouds).float() / 127)
        margin = int(np.ceil(scenes.layers[..., 4].max(initial=0) * 0.71)) + 2
        canvas = functional.pad(canvas, (0, 0, margin, margin, margin, margin))
        for depth in range(int(scenes.counts.max(initial=0))):
            present = np.flatnonzero(scenes.counts > depth)
            self._paint(canvas, scenes.layers[present, depth], present, margin)
        painted = canvas[:, margin : margin + IMAGE_SIZE, margin : margin + IMAGE_SIZE]
        return (painted.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 3, 1, 2).contiguous()

    def _to_device(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _paint_backgrounds(self, parameters: Tensor, clouds: Tensor) -> Tensor:
        """Backgrounds `[B, 336, 336, 3]`: two colours mixed by a pattern, with clouds and grain over them."""
        first, second = parameters[:, 0:3], parameters[:, 3:6]
        gradient, cloudy, stripes, checks, speckles = (w[:, None, None] for w in parameters[:, 6:11].unbind(1))
        along_x, along_y, shift_x, shift_y, strength = (p[:, None, None] for p in parameters[:, 11:16].unbind(1))
        axis = torch.arange(IMAGE_SIZE, device=self.device, dtype=torch.float32) + 0.5
        x, y = axis[None, None, :], axis[None, :, None]
        wave = _triangle(x * along_x + y * along_y)
        across = _triangle(y * along_x - x * along_y)
        coarse, fine = clouds.split([side**2 for side in _GRIDS], dim=1)
        smooth = [
            functional.interpolate(values.view(-1, 1, side, side), IMAGE_SIZE, mode="bilinear", align_corners=True)[
                :, 0
            ]
            for values, side in zip((coarse, fine), _GRIDS, strict=True)
        ]
        rows = (axis.long()[None, :] + shift_y[:, :, 0].long()) % 512
        columns = (axis.long()[None, :] + shift_x[:, :, 0].long()) % 512
        grain = self._grain[rows[:, :, None], columns[:, None, :]]
        mixed = (
            gradient * (x * along_x.abs() + y * along_y.abs()) * 0.12
            + cloudy * (0.5 + 0.5 * smooth[0])
            + stripes * (2 * wave - 0.5).clamp(0, 1)
            + checks * (0.5 + 8 * (wave - 0.5) * (across - 0.5)).clamp(0, 1)
            + speckles * (0.5 + 0.7 * smooth[1])
        ).clamp(0, 1)
        base = first[:, None, None] + (second - first)[:, None, None] * mixed[..., None]
        light = strength * (0.6 * smooth[0] + 0.5 * smooth[1]) + 0.025 * grain
        return (base + light[..., None]).clamp(0, 1)

    def _paint(
        self, canvas: Tensor, layers: npt.NDArray[np.float32], images: npt.NDArray[np.int64], margin: int
    ) -> None:
        """Paints one layer of each of `images` over the canvas `[B, H, W, 3]`, in place."""
        # The window is as large as the largest layer needs. Its size changes nothing: alpha is zero outside a sprite.
        window = int(np.ceil(layers[:, 4].max() * 1.42)) + 2
        row = self._to_device(images)[:, None, None]
        fields_ = self._to_device(layers)
        sprite, level = fields_[:, 0].long(), fields_[:, 1].long()
        centre, size = fields_[:, 2:4], fields_[:, 4]
        cos, sin, mirror, tinted = (field[:, None, None] for field in fields_[:, 5:9].unbind(1))
        corner = (centre - window / 2).floor().long()
        steps = torch.arange(window, device=self.device)
        columns, rows = corner[:, 0, None] + steps, corner[:, 1, None] + steps
        dx = (columns + 0.5 - centre[:, 0, None])[:, None, :]
        dy = (rows + 0.5 - centre[:, 1, None])[:, :, None]
        side = self._sides[level]
        scale, limit = (side / size)[:, None, None], (side / 2 + 1)[:, None, None]
        u = ((cos * dx + sin * dy) * mirror * scale).clamp(-limit, limit)
        v = ((cos * dy - sin * dx) * scale).clamp(-limit, limit)
        position = torch.stack([u, v], dim=-1) + self._centres[level, sprite][:, None, None]
        grid = (position * self._scale - 1).view(1, -1, window, 2)
        sampled = functional.grid_sample(self._texture, grid, mode="bilinear", align_corners=False)
        color, shade, alpha = sampled[0].view(5, len(images), window, window).split([3, 1, 1])
        shade, alpha = shade[0][..., None], alpha[0][..., None]
        hue = fields_[:, None, None, 9:12]
        # Shades below one half lead from black to the tint, those above from the tint towards white.
        dyed = hue * torch.minimum(1.6 * shade, alpha) + 0.8 * (1 - hue) * (2 * shade - 1.25 * alpha).clamp(min=0)
        color = torch.where(tinted[..., None] > 0, dyed, color.permute(1, 2, 3, 0))
        # Every centre is inside the image, and the margin holds the rest of a window, but for a pixel of rounding.
        index = (
            row,
            (rows + margin).clamp(0, canvas.shape[1] - 1)[:, :, None],
            (columns + margin).clamp(0, canvas.shape[2] - 1)[:, None, :],
        )
        canvas[index] = canvas[index] * (1 - alpha) + color


def _triangle(phase: Tensor) -> Tensor:
    """Triangle wave of period 1 between 0 and 1."""
    return (2 * (phase - phase.floor()) - 1).abs()


@cache
def _cpu_composer() -> Composer:
    return Composer()


def compose(scenes: Sequence[Scene], composer: Composer | None = None) -> list[Image.Image]:
    """Images of scenes, composed on the CPU where no composer is given."""
    batch = (composer or _cpu_composer())(pack(scenes)).permute(0, 2, 3, 1).cpu().contiguous().numpy()
    return [Image.fromarray(image) for image in batch]


def contact_sheet() -> Image.Image:
    """Twelve scenes in three rows: one simple, five easy and six crowded ones."""
    scenes = [sample_scene("simple", 3)] + [sample_scene("easy", seed) for seed in range(5)]
    scenes += [sample_scene("crowded", seed) for seed in range(6)]
    sheet = Image.new("RGB", (4 * IMAGE_SIZE + 12, 3 * IMAGE_SIZE + 8), "white")
    for place, image in enumerate(compose(scenes)):
        sheet.paste(image, (place % 4 * (IMAGE_SIZE + 4), place // 4 * (IMAGE_SIZE + 4)))
    return sheet


def benchmark(device: str, batch: int, seconds: float) -> dict[str, object]:
    """Images a second that the device composes, half of them crowded, from scenes that are packed already."""
    scenes = pack([sample_scene("crowded" if seed % 2 else "easy", seed) for seed in range(batch)])
    composer = Composer(device)
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    composer(scenes)
    synchronize()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        composer(scenes)
        synchronize()
        done += batch
    rate = done / (time.perf_counter() - began)
    return {"device": device, "threads": torch.get_num_threads(), "batch": batch, "images_per_second": round(rate, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the benchmark and the contact sheet."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.world576.composition", description="Composes images of scenes."
    )
    parser.add_argument("--benchmark", action="store_true", help="print the images a second as JSON")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help="write a picture of twelve scenes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(arguments)
    if options.contact_sheet:
        contact_sheet().save(options.contact_sheet)
    if options.benchmark:
        print(json.dumps(benchmark(options.device, options.batch, options.seconds)))


if __name__ == "__main__":
    main()
