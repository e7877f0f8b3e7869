"""Pruners of other packages, found by their entry points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encoder_service.pruners import none
from encoder_service.pruners.base import Pruner
from fovea.pruner_registry import PluginError, PrunerRegistry
from tests.pruner_packages import install, project

MODULE = """
import dataclasses

from encoder_service.pruners import none
from encoder_service.pruners.base import Pruner
from llm_service.pruners.fastv import PRUNER as LLM_PRUNER

every = dataclasses.replace(none.PRUNER, name="every")
again = dataclasses.replace(none.PRUNER, name="every")
unnamed = dataclasses.replace(none.PRUNER, name="")
taken = none.PRUNER
kind = Pruner
undeclared = dataclasses.replace(none.PRUNER, name="undeclared", parameters=int)


def __getattr__(name):
    if name == "needs_more":
        import package_that_nobody_has
    if name == "fails":
        from os import something_else
    if name == "raises":
        raise RuntimeError(__file__)
    raise AttributeError(name)
"""
GROUPS = {
    "test.good": ("every",),
    "test.twice": ("every", "again"),
    "test.unnamed": ("unnamed",),
    "test.taken": ("taken",),
    "test.kind": ("kind",),
    "test.side": ("LLM_PRUNER",),
    "test.undeclared": ("undeclared",),
    "test.absent": ("absent",),
    "test.needs_more": ("needs_more",),
    "test.fails": ("fails",),
    "test.raises": ("raises",),
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The registry of the encoder service, with the pruner `none` alone, for a group of the installed package."""
    entry_points = {
        group: {name.lower(): f"somebodys_pruners:{name}" for name in names} for group, names in GROUPS.items()
    }
    entry_points["test.no_module"] = {"gone": "somebodys_other_module:PRUNER"}
    files = {"pyproject.toml": project("somebodys-pruners", entry_points), "somebodys_pruners.py": MODULE}
    installed = install(tmp_path_factory.mktemp("package"), files)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        yield lambda group: PrunerRegistry((none.PRUNER,), group=group, kind=Pruner, side="encoder service")


def test_a_pruner_of_another_package_follows_the_built_in_ones(registry: Callable[[str], Any]) -> None:
    pruners = registry("test.good")
    assert list(pruners) == ["none", "every"]
    assert pruners["every"].bind({}).name == "every"
    assert len(pruners.fingerprint) == 16
    with pytest.raises(KeyError):
        pruners["fovea"]


def test_without_other_packages_there_are_the_built_in_ones(registry: Callable[[str], Any]) -> None:
    pruners = registry("test.nobody")
    assert list(pruners) == ["none"]
    assert pruners.fingerprint == ""


@pytest.mark.parametrize(
    ("group", "entry_point", "what"),
    [
        ("test.taken", "taken", "declares a pruner named 'none', which exists already"),
        ("test.twice", "every", "declares a pruner named 'every', which exists already"),
        ("test.unnamed", "unnamed", "names a pruner without a name"),
        ("test.kind", "kind", "does not name a pruner of the encoder service"),
        ("test.side", "llm_pruner", "does not name a pruner of the encoder service"),
        ("test.undeclared", "undeclared", "names a pruner whose parameters are not declared"),
        ("test.absent", "absent", "cannot be imported: its module does not hold the object"),
        ("test.no_module", "gone", "cannot be imported: there is no module 'somebodys_other_module'"),
        ("test.needs_more", "needs_more", "cannot be imported: there is no module 'package_that_nobody_has'"),
        ("test.fails", "fails", "cannot be imported: one of its imports fails"),
        ("test.raises", "raises", "cannot be imported: its code fails"),
    ],
)
def test_the_error_names_the_package_and_the_entry_point(
    registry: Callable[[str], Any], group: str, entry_point: str, what: str
) -> None:
    with pytest.raises(PluginError) as caught:
        registry(group).load()
    assert str(caught.value) == f"the package 'somebodys-pruners' (entry point '{entry_point}' of {group}) {what}"


def test_a_built_in_pruner_is_found_without_other_packages(registry: Callable[[str], Any]) -> None:
    assert registry("test.raises")["none"] is none.PRUNER
