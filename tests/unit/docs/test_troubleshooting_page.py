"""Messages that docs/troubleshooting.md quotes are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
PACKAGES = ("fovea", "encoder_service", "llm_service", "gateway")
VARIABLE = "…"


def quoted() -> list[str]:
    """Messages of the tables whose first column has messages: text between backticks."""
    found = []
    for table in re.findall(r"^\| (?:status and )?message \|.*\n\|.*\n((?:\|.*\n)+)", PAGE, re.M):
        for row in table.splitlines():
            cell = re.split(r" \| ", row.removeprefix("| "))[0]
            message = re.match(r"(?:\d{3} )?`([^`]+)`", cell)
            assert message, f"no message in {row}"
            found.append(message[1])
    return found


def templates() -> list[str]:
    """Every string of the code, with `VARIABLE` for what a format or a log line fills in."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[sdg]|\{\w+\}", VARIABLE, node.value))
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else VARIABLE for part in node.values)
                    found.append("".join(map(str, parts)))
    return found


TEMPLATES = "\n".join(templates())


def test_the_page_quotes_messages_of_every_kind() -> None:
    assert len(quoted()) > 40


@pytest.mark.parametrize("message", quoted())
def test_a_message_is_one_of_the_code(message: str) -> None:
    assert message in TEMPLATES
