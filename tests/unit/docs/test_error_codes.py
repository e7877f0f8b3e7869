"""docs/api.md names the code of every error beside its status."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway.access.errors
import gateway.http.errors  # noqa: F401  # its errors are subclasses, too
from fovea.errors import ServiceError

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text()
ROWS = {(int(status), cell) for status, cell in re.findall(r"^\| (\d{3}) (.*?) \|", PAGE, re.M)}


def errors(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from errors(subclass)


@pytest.mark.parametrize(("status", "code"), sorted({(error.http_status, error.code) for error in errors()}))
def test_each_code_stands_beside_its_status(status: int, code: str) -> None:
    assert any(status == row and f"`{code}`" in cell for row, cell in ROWS)
