"""The atlas: one picture with a sprite of every kind, of the board of a sign, and of every glyph, and its texture.

The picture `atlas.png` is committed, because the font is not on every machine. It was made with Pillow 13.0 from
version 2.042 of the Debian package `fonts-noto-color-emoji` by

    python -m lab.world576.atlas --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

The emoji are under the SIL Open Font License 1.1 (`ATLAS-LICENSE.txt`). The glyphs are of the font inside Pillow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from lab.world576.kinds import DISTRACTOR_EMOJI, DISTRACTORS, EMOJI, GLYPHS, KINDS, SIGN

FILE: Final = Path(__file__).parent / "atlas.png"
SIDE: Final = 96  # pixels of a sprite's side
COLUMNS: Final = 12
SPRITES: Final = (*KINDS, *DISTRACTORS, SIGN, *(f"glyph {glyph}" for glyph in GLYPHS))
SPRITE_INDEX: Final = {name: index for index, name in enumerate(SPRITES)}
LEVEL_SIDES: Final = (SIDE, SIDE // 2, SIDE // 4)
_BORDER: Final = 2  # transparent pixels around each sprite of the texture, so that filtering never meets a neighbour
_BITMAP_SIZE: Final = 109  # the only size of the emoji font's bitmaps


def _fitted(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The opaque part of an RGBA image, scaled to touch the sides of a square and centred in it."""
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise ValueError("the font has no picture for a character")
    cut = image.crop(box)
    scale = side / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


def _emoji(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    canvas = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(canvas).text((20, 20), character, font=font, embedded_color=True)
    return _fitted(canvas)


def _board() -> Image.Image:
    square = Image.new("RGBA", (4 * SIDE, 4 * SIDE))
    draw = ImageDraw.Draw(square)
    draw.rounded_rectangle(
        (0, 104, 4 * SIDE - 1, 4 * SIDE - 105), 32, fill=(255, 255, 255), outline=(20, 20, 20), width=14
    )
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _glyph(character: str) -> Image.Image:
    """A black glyph at the scale of all others: the height of an H is four fifths of the cell."""
    font = ImageFont.load_default(4 * SIDE)
    middle, base = 4 * SIDE, 6 * SIDE
    canvas = Image.new("L", (8 * SIDE, 8 * SIDE))
    draw = ImageDraw.Draw(canvas)
    draw.text((middle, base), character, font=font, fill=255, anchor="ms", stroke_width=14)
    _, top, _, bottom = draw.textbbox((middle, base), "H", font=font, anchor="ms", stroke_width=14)
    half = int(bottom - top) * 5 // 8
    centre = int(top + bottom) // 2
    cut = canvas.crop((middle - half, centre - half, middle + half, centre + half))
    cut = cut.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Image.merge("RGBA", [Image.new("L", (SIDE, SIDE), 15)] * 3 + [cut])


def draw_atlas(font_file: Path) -> Image.Image:
    """Picture of the atlas from the emoji font; sprites in the order of `SPRITES`, `COLUMNS` a row."""
    font = ImageFont.truetype(str(font_file), _BITMAP_SIZE)
    sprites = [_emoji(EMOJI[kind], font) for kind in KINDS]
    sprites += [_emoji(DISTRACTOR_EMOJI[kind], font) for kind in DISTRACTORS]
    sprites += [_board()] + [_glyph(glyph) for glyph in GLYPHS]
    atlas = Image.new("RGBA", (COLUMNS * SIDE, -(-len(sprites) // COLUMNS) * SIDE))
    for index, sprite in enumerate(sprites):
        atlas.paste(sprite, (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
    return atlas


@cache
def sprites() -> npt.NDArray[np.float32]:
    """All sprites with straight alpha in 0..1, `[len(SPRITES), SIDE, SIDE, 4]`, from the committed picture."""
    with Image.open(FILE) as image:
        array = np.asarray(image.convert("RGBA"))
    rows = array.shape[0] // SIDE
    cells = array.reshape(rows, SIDE, COLUMNS, SIDE, 4).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 4)
    return cells[: len(SPRITES)].astype(np.float32) / np.float32(255)


def _shades(rgba: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Luminance of each sprite, brought to mean 0.55 and deviation 0.22 over its opaque pixels, in 0..1.

    A tint replaces the colours of a sprite and keeps these shades, so that a dark and a light emoji in the same colour
    look alike in it.
    """
    luminance = rgba[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    alpha = rgba[..., 3]
    total = alpha.sum((1, 2), keepdims=True)
    mean = (luminance * alpha).sum((1, 2), keepdims=True) / total
    deviation = np.sqrt(((luminance - mean) ** 2 * alpha).sum((1, 2), keepdims=True) / total)
    shades: npt.NDArray[np.float32] = np.clip(0.55 + (luminance - mean) / np.maximum(deviation, 0.05) * 0.22, 0, 1)
    return shades


@dataclass(frozen=True)
class Texture:
    """All sprites at three sizes in one image, for filtering.

    Attributes:
        values: red, green, blue and shade, all multiplied by alpha, then alpha, `[5, H, W]` float32.
        centres: centre of each sprite at each level in pixels (x, y), `[levels, len(SPRITES), 2]` float32.
    """

    values: npt.NDArray[np.float32]
    centres: npt.NDArray[np.float32]


@cache
def texture() -> Texture:
    """Texture of the committed atlas. Each level is the mean of 2 x 2 pixels of the one before."""
    rgba = sprites()
    alpha = rgba[..., 3:]
    level = np.concatenate([rgba[..., :3] * alpha, _shades(rgba)[..., None] * alpha, alpha], axis=-1)
    rows = -(-len(SPRITES) // COLUMNS)
    cells = [side + 2 * _BORDER for side in LEVEL_SIDES]
    values = np.zeros((rows * sum(cells), COLUMNS * cells[0], 5), dtype=np.float32)
    centres = np.zeros((len(cells), len(SPRITES), 2), dtype=np.float32)
    top = 0
    for depth, (side, cell) in enumerate(zip(LEVEL_SIDES, cells, strict=True)):
        if depth:
            level = level.reshape(len(SPRITES), side, 2, side, 2, 5).mean((2, 4))
        for index in range(len(SPRITES)):
            x, y = index % COLUMNS * cell + _BORDER, top + index // COLUMNS * cell + _BORDER
            values[y : y + side, x : x + side] = level[index]
            centres[depth, index] = x + side / 2, y + side / 2
        top += rows * cell
    return Texture(np.ascontiguousarray(values.transpose(2, 0, 1)), centres)


@cache
def masks() -> npt.NDArray[np.bool_]:
    """Opaque pixels of each sprite at the smallest level, `[len(SPRITES), 24, 24]`."""
    side = LEVEL_SIDES[-1]
    alpha = sprites()[..., 3].reshape(len(SPRITES), side, SIDE // side, side, SIDE // side).mean((2, 4))
    opaque: npt.NDArray[np.bool_] = alpha >= 0.5
    return opaque


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line that draws `atlas.png`."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.world576.atlas", description="Draws the atlas from the emoji font."
    )
    parser.add_argument("--font", type=Path, required=True, help="NotoColorEmoji.ttf with bitmaps (CBDT)")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    draw_atlas(options.font).save(options.out, optimize=True)
    print(f"{len(SPRITES)} sprites in {options.out.name}, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
