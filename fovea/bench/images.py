"""Images of the requests: files of a folder, or coloured noise that no cache has seen."""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

from PIL import Image

from fovea.client.form_parts import UnreadableMedium

__all__ = ["FolderImages", "ImageSource", "NoiseFormat", "NoiseImages"]

NoiseFormat = Literal["jpeg", "png"]

_TYPES: Final = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".gif": "gif",
    ".bmp": "bmp",
}
# Noise of a few cells that is enlarged: structure at every scale, and files about as large as those of photographs.
_CELLS: Final = (16, 12)
_JPEG_QUALITY: Final = 90


class ImageSource(Protocol):
    """Source of the images of requests. It is called in a thread of its own."""

    @property
    def description(self) -> dict[str, object]:
        """What a result file says about the images."""

    def data_urls(self, request: int, count: int) -> list[str]:
        """Data URLs of the images of a request.

        Args:
            request: number of the request among those of its model.
            count: number of images.
        """


class FolderImages:
    """Files of a folder in the order of their names, in turns. Equal requests of several models have equal images.

    Args:
        folder: folder with at least one JPEG, PNG, WebP, GIF or BMP file.

    Raises:
        UnreadableMedium: the folder cannot be read, or has no such file.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._files: Sequence[Path] = sorted(path for path in folder.iterdir() if path.suffix.lower() in _TYPES)
        except OSError as error:
            raise UnreadableMedium(f"cannot read {folder}: {error.strerror}") from error
        if not self._files:
            raise UnreadableMedium(f"{folder} has no file that ends in {', '.join(_TYPES)}")

    @property
    def description(self) -> dict[str, object]:
        """Number of files."""
        return {"from": "folder", "files": len(self._files)}

    def data_urls(self, request: int, count: int) -> list[str]:
        """Data URLs of the next files.

        Raises:
            OSError: a file cannot be read.
        """
        first = request * count
        paths = [self._files[number % len(self._files)] for number in range(first, first + count)]
        return [_data_url(_TYPES[path.suffix.lower()], path.read_bytes()) for path in paths]


class NoiseImages:
    """Coloured noise, different in every image of every run.

    Args:
        size: width and height in pixels.
        file_format: format of the files.
    """

    def __init__(self, size: tuple[int, int], file_format: NoiseFormat = "jpeg") -> None:
        self._size, self._format = size, file_format

    @property
    def description(self) -> dict[str, object]:
        """Size and format."""
        return {"from": "noise", "width": self._size[0], "height": self._size[1], "format": self._format}

    def data_urls(self, request: int, count: int) -> list[str]:
        """Data URLs of new images."""
        return [_data_url(self._format, self._file()) for _ in range(count)]

    def _file(self) -> bytes:
        # Without a seed: a server may have cached the images of an earlier run.
        cells = Image.frombytes("RGB", _CELLS, secrets.token_bytes(3 * _CELLS[0] * _CELLS[1]))
        file = io.BytesIO()
        cells.resize(self._size, Image.Resampling.BICUBIC).save(file, self._format.upper(), quality=_JPEG_QUALITY)
        return file.getvalue()


def _data_url(subtype: str, data: bytes) -> str:
    return f"data:image/{subtype};base64,{base64.b64encode(data).decode()}"
