import io

import numpy as np
from PIL import Image

from fovea.overlay import draw_kept


def test_kept_patches_are_bright_and_the_others_dark() -> None:
    file = io.BytesIO()
    Image.new("RGB", (80, 80), (200, 40, 40)).save(file, "PNG")
    drawing = np.asarray(draw_kept(file.getvalue(), (4, 4), [5]))
    cell = drawing.shape[0] // 4
    brightness = drawing.mean(axis=2).reshape(4, cell, 4, cell).mean(axis=(1, 3)).reshape(-1)
    assert brightness.argmax() == 5
    assert (brightness[5] > 1.5 * np.delete(brightness, 5)).all()


def test_a_wide_picture_is_cropped_as_the_encoder_crops_it() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    drawing = draw_kept(file.getvalue(), (2, 2), [0, 1, 2, 3])
    assert drawing.width == drawing.height
    assert np.asarray(drawing)[10:-10, 10:-10].mean() > 220
