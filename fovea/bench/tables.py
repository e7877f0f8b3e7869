"""Markdown tables that are also readable on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, labels: Collection[int]) -> str:
    """A Markdown table with aligned columns.

    Args:
        header: texts of the head.
        rows: cells of each row.
        labels: indices of the columns that are aligned to the left; the others hold numbers.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if index in labels else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    lines = [_line(header, widths, labels), _line(rule, widths, labels), *(_line(row, widths, labels) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int], labels: Collection[int]) -> str:
    padded = (
        cell.ljust(width) if index in labels else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"
