"""Virtual environments with Fovea's wheel and, of all other packages, those of some extras: what `pip install` gives.

No package index is needed: the packages are links to those of the environment that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.documented import ROOT
from tests.repository import unignored_files

__all__ = ["Installation", "build_editable_wheel", "build_wheel", "copy_source", "install"]

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_OFFLINE = ("--quiet", "--no-index", "--no-deps")


@dataclass(frozen=True)
class Installation:
    """An installation in an environment of its own.

    Attributes:
        python: its interpreter.
        site: its folder of packages.
    """

    python: Path
    site: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables for its processes, which must not import the packages of the working directory."""
        return {**os.environ, "PYTHONSAFEPATH": "1"}

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`python WORDS` in its environment with some more variables."""
        return self._run(self.python, *words, **variables)

    def fovea(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`fovea WORDS` in its environment with some more variables."""
        return self._run(self.python.with_name("fovea"), *words, **variables)

    def _run(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


def copy_source(source: Path) -> Path:
    """Copies the files that git does not ignore to a new folder, and returns it."""
    for name in unignored_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    return source


def build_wheel(folder: Path) -> Path:
    """The wheel of the files that git does not ignore, built in `folder` by the build backend of this environment."""
    source = copy_source(folder / "source")
    _call([*_PIP, "wheel", *_OFFLINE, "--no-build-isolation", "--wheel-dir", str(folder), str(source)])
    (wheel,) = folder.glob("fovea-*.whl")
    return wheel


def build_editable_wheel(folder: Path, source: Path) -> Path:
    """The wheel of an editable installation of `source`, as `make install` has pip build it."""
    words = ["-c", "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])", str(folder)]
    _call([sys.executable, *words], cwd=source)
    (wheel,) = folder.glob("fovea-*.whl")
    return wheel


def install(folder: Path, wheel: Path, extras: Sequence[str] = ()) -> Installation:
    """The environment in `folder` with a wheel, the packages that it needs, and those of extras."""
    _call([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    site = Path(_call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    _call([*_PIP, "--python", str(python), "install", *_OFFLINE, str(wheel)])
    (fovea,) = distributions(name="fovea", path=[str(site)])
    for package in _needed(fovea, extras):
        _link(package, site)
    return Installation(python, site)


def _call(words: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _needed(fovea: Distribution, extras: Iterable[str]) -> list[Distribution]:
    """What pip would install beside a distribution with some extras, of the packages of this environment."""
    found: dict[str, Distribution] = {}
    asked: set[tuple[str, str]] = set()
    waiting: list[tuple[Distribution, str]] = [(fovea, extra) for extra in ("", *extras)]
    while waiting:
        package, extra = waiting.pop()
        if (package.name, extra) in asked:
            continue
        asked.add((package.name, extra))
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                name = canonicalize_name(requirement.name)
                needed = fovea if name == fovea.name else _installed()[name]
                found[name] = needed
                waiting += [(needed, further) for further in ("", *requirement.extras)]
    return [package for package in found.values() if package is not fovea]


@cache
def _installed() -> dict[str, Distribution]:
    """Distributions of this environment by name; the first on the path is the one that is imported."""
    return {canonicalize_name(package.name): package for package in reversed(list(distributions()))}


@cache
def _owners() -> dict[PurePath, set[str]]:
    """Names of the distributions with files in a folder, such as `google`, by the folder's path."""
    owners = defaultdict(set)
    for name, package in _installed().items():
        for file in package.files or ():
            for folder in file.parents:
                owners[PurePath(folder)].add(name)
    return owners


def _link(package: Distribution, site: Path) -> None:
    """Links a package into another environment: folders that are its own, and its files in folders of several."""
    assert package.files, f"{package.name} does not list its files"
    links = set()
    for file in package.files:
        if ".." not in file.parts:  # programs in bin/
            path = PurePath(file)
            own = [folder for folder in path.parents if len(_owners()[folder]) == 1]
            links.add(own[-1] if own else path)
    for path in links:
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).symlink_to(package.locate_file(path))
