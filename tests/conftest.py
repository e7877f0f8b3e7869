"""How the tests are shared among the workers of `make test`."""

from __future__ import annotations

from typing import Final

import pytest

# Tests of these files start what they need by themselves, so they need not run in one worker.
_APART: Final = ("test_documented_commands.py", "test_every_family.py", "test_cli.py", "test_hostile_media.py")
# Tests that set up network namespaces or control groups of the machine run one after the other.
_OF_THE_MACHINE: Final = (
    "test_unsteady_link.py",
    "test_link.py",
    "test_cpu_caps.py",
    "[benchmarks.link]",
    "[benchmarks.replicas]",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one worker, because they share services and checkpoints, with few exceptions."""
    for item in items:
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str:
    """Name of the group whose tests run in one worker; empty for a test that may run anywhere."""
    if any(part in item.nodeid for part in _OF_THE_MACHINE):
        return "machine"
    return "" if item.path.name in _APART else str(item.path)
