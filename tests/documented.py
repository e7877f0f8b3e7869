"""Commands in documents, docstrings and deployment files."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Documents about earlier versions.
_HISTORY = {"CHANGELOG.md", "benchmarks/LOG.md"}
_PACKAGES = ("fovea", "encoder_service", "llm_service", "gateway", "lab", "benchmarks", "docsite")
_COMMAND = re.compile(
    rf"(?:^|(?<=[\s/(]))(?:python3? -m (?:{'|'.join(_PACKAGES)})\b"
    r"|fovea (?:up|ask|chat|explain|demo|bench|doctor|keys|completion)\b|make [a-z])[^`\n]*"
)
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"`([^`]+)`")
# Modules whose first word is a command of its own.
_WITH_SUBCOMMANDS = ("benchmarks.capacity", "benchmarks.wire.link_transfer", "lab")


@dataclass(frozen=True)
class Documented:
    """A command and its place.

    Attributes:
        place: file, from the root of the repository.
        text: the command as it is written, in one line.
    """

    place: str
    text: str

    @cached_property
    def words(self) -> list[str]:
        """Words of the command, split as by a shell."""
        return shlex.split(self.text, comments=True)

    @property
    def options(self) -> set[str]:
        """Names of its options."""
        return {word.split("=")[0] for word in self.words if re.match(r"--[a-z]", word)}

    @property
    def key(self) -> str:
        """The command without its options: "benchmarks.capacity plan", "fovea ask", "make demo"."""
        first, second, *rest = self.words
        if [first, second] == ["fovea", "keys"]:
            return " ".join(self.words[:3])
        if first in ("fovea", "make"):
            return f"{first} {second}"
        module, *rest = rest
        return f"{module} {rest[0]}" if module in _WITH_SUBCOMMANDS and rest else module


def documented() -> list[Documented]:
    """Every command in the files under version control."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    found = []
    for name in names:
        path = ROOT / name
        if name in _HISTORY or name.startswith("tests/unit") or not path.is_file():
            continue
        for line in _lines(path):
            found += [Documented(name, match.group().strip()) for match in _COMMAND.finditer(line)]
    return found


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".md":
        yield from _of_prose(path.read_text())
    elif path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _of_prose(ast.get_docstring(node) or "")
    elif "deploy" in path.parts or path.name == "docker-compose.yml":
        yield from path.read_text().splitlines() if path.suffix in (".yaml", ".yml", ".env", ".service") else ()


def _of_prose(text: str) -> Iterator[str]:
    """Lines of code blocks, and texts between backticks."""
    for block in _BLOCK.findall(text):
        yield from (line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines())
    rest = _BLOCK.sub("", text)
    yield from (" ".join(span.split()) for span in _INLINE.findall(rest))
    yield from (line for line in rest.splitlines() if line.startswith("    python -m "))
