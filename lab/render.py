"""Rendering of a scene: a seeded background, and every thing with shading, texture and letter."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from lab.scenes import GRID, IMAGE_SIZE, PATCH_SIZE, Scene, Thing
from lab.shapes import FloatArray, glyph_mask, shape_mask, texture

RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (242, 128, 20),
    "yellow": (246, 220, 34),
    "green": (34, 148, 52),
    "cyan": (42, 206, 214),
    "blue": (34, 70, 206),
    "purple": (130, 40, 164),
    "pink": (248, 128, 182),
}
TWO_TONES = (((20, 20, 24), (244, 244, 240)), ((70, 24, 18), (240, 214, 160)), ((16, 40, 60), (226, 240, 250)))
DARK_LETTER_COLORS = ("yellow", "cyan", "pink", "orange")
# Least share of a patch that a thing must cover to own the patch.
PATCH_COVERAGE = 0.2


@lru_cache(maxsize=1)
def _noise_bank() -> tuple[FloatArray, FloatArray]:
    """White noise and smooth clouds, 512 x 512, standardised; images take random windows of them."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((512, 512)).astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None, :])
    spectrum = np.fft.fft2(rng.standard_normal((512, 512))) * np.exp(-((frequency * 40) ** 2))
    clouds = np.real(np.fft.ifft2(spectrum)).astype(np.float32)
    return white, clouds / clouds.std()


def _window(bank: FloatArray, rng: np.random.Generator) -> FloatArray:
    top, left = rng.integers(0, bank.shape[0] - IMAGE_SIZE, 2)
    return bank[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def _background(kind: str, rng: np.random.Generator) -> FloatArray:
    """A muted backdrop `[144, 144, 3]` in 0..255; its colours stay far from those of objects."""
    white, clouds = _noise_bank()
    grey = rng.uniform(70, 190)
    first = grey + rng.uniform(-18, 18, 3)
    second = grey + rng.uniform(-40, 40) + rng.uniform(-18, 18, 3)
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32) / IMAGE_SIZE
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    if kind == "gradient":
        blend = np.clip(slope * 0.7 + 0.5, 0, 1)
    elif kind == "clouds":
        blend = np.clip(_window(clouds, rng) * 0.3 + 0.5, 0, 1)
    elif kind == "stripes":
        blend = 0.5 + 0.3 * np.sin(slope * np.float32(rng.uniform(25, 60)))
    elif kind == "checks":
        cell = int(rng.integers(8, 25))
        blend = ((x * IMAGE_SIZE // cell + y * IMAGE_SIZE // cell) % 2) * 0.4 + 0.3
    else:
        blend = np.clip(_window(white, rng) * 0.2 + 0.5, 0, 1)
    canvas: FloatArray = first.astype(np.float32) + blend[..., None] * (second - first).astype(np.float32)
    canvas += _window(white, rng)[..., None] * np.float32(rng.uniform(1, 5))
    return canvas


def _draw(canvas: FloatArray, thing: Thing, rng: np.random.Generator) -> None:
    size = thing.size
    top, left = thing.y - size // 2, thing.x - size // 2
    window = canvas[top : top + size, left : left + size]
    mask = shape_mask(thing.shape, size)[..., None]
    if thing.distractor:
        dark, light = TWO_TONES[int(rng.integers(len(TWO_TONES)))]
        share = texture(thing.look, size, int(rng.integers(8)))[..., None]
        fill = (1 - share) * np.array(dark, dtype=np.float32) + share * np.array(light, dtype=np.float32)
    else:
        color = np.array(RGB[thing.look], dtype=np.float32) + rng.uniform(-10, 10, 3).astype(np.float32)
        shade = np.linspace(1.1, 0.88, size, dtype=np.float32)[:, None, None]
        fill = color * shade
    window += mask * (fill - window)
    if thing.letter:
        glyph = glyph_mask(thing.letter, 3 if thing.large else 2)
        height, width = glyph.shape
        ink = 15.0 if thing.look in DARK_LETTER_COLORS else 250.0
        spot = window[(size - height) // 2 :, (size - width) // 2 :][:height, :width]
        spot += glyph[..., None] * (np.float32(ink) - spot)


def render_array(scene: Scene) -> npt.NDArray[np.uint8]:
    """The image of a scene: `[144, 144, 3]` RGB."""
    # A random stream of its own: a change of the rendering must not change the content of scenes.
    rng = np.random.default_rng([scene.seed, 77])
    canvas = _background(scene.background, rng)
    for thing in scene.things:
        _draw(canvas, thing, rng)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def render(scene: Scene) -> Image.Image:
    """The image of a scene as an RGB image of 144 x 144 pixels."""
    return Image.fromarray(render_array(scene), "RGB")


def label_patches(scene: Scene) -> npt.NDArray[np.int8]:
    """Index in `scene.things` of the thing that covers each patch most, `[144]`; -1 for background."""
    best = np.full((GRID, GRID), PATCH_COVERAGE, dtype=np.float32)
    thing_of_patch = np.full((GRID, GRID), -1, dtype=np.int8)
    plane = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    for index, thing in enumerate(scene.things):
        top, left = thing.y - thing.size // 2, thing.x - thing.size // 2
        plane[:] = 0
        plane[top : top + thing.size, left : left + thing.size] = shape_mask(thing.shape, thing.size)
        share = plane.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean(axis=(1, 3))
        thing_of_patch[share > best] = index
        best = np.maximum(best, share)
        # The patch of a thing's centre always belongs to the thing, even in the hole of a ring.
        row, column = thing.y // PATCH_SIZE, thing.x // PATCH_SIZE
        thing_of_patch[row, column], best[row, column] = index, 1.0
    return thing_of_patch.reshape(-1)
