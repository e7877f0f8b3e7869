"""How the tests are shared among the workers of `make test`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from typing import Final

import pytest

from fovea.processes.imports import large_imports

# The workers share the cores: more threads in each would only wait for each other. Before anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell ignores Ctrl-C for what it runs in the background, and the commands that tests interrupt would do so, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

_MACHINE: Final = "machine"
# Tests that set up network namespaces or control groups run one after the other. They wait more than they compute.
_OF_THE_MACHINE: Final = (
    "test_unsteady_link.py",
    "test_link.py",
    "test_cpu_caps.py",
    "[benchmarks.link]",
    "[benchmarks.replicas]",
)
_SERVICES: Final = "services"
# These share the services of the fixture `stack`, which take a quarter of a minute to start.
_WITH_SERVICES: Final = (
    "test_answers.py",
    "test_chat_completions.py",
    "test_errors.py",
    "test_examples.py",
    "test_explain.py",
    "test_hostile_messages.py",
    "test_page_blocks.py",
    "test_pods_roll_apart.py",
    "test_split_exactness.py",
    "[fovea.rpc.probe]",
)
# These share one build of the site of docs/.
_OF_THE_SITE: Final = ("test_site.py", "test_site_in_browser.py")
# Each of these tests starts its own services, so that they need not share a worker.
_APART: Final = (
    "test_documented_commands.py::test_a_command_runs_in_its_short_form[benchmarks.",
    "test_every_family.py",
    "test_cli.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports all test modules, and with them torch, as the services do: no test waits for collections of all that."""
    with large_imports():
        return (yield)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one worker, because they share services and checkpoints, with few exceptions.

    The groups that take longest come first, so that no worker is left with one of them at the end.
    """
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
    first = (_MACHINE, _SERVICES)
    items.sort(key=lambda item: (groups[item] not in first, groups[item] != _MACHINE, "e2e" not in item.path.parts))


def _group(item: pytest.Item) -> str:
    """Name of the group whose tests run in one worker; empty for a test that may run in any."""
    if any(part in item.nodeid for part in _OF_THE_MACHINE):
        return _MACHINE
    if item.path.name in _OF_THE_SITE:
        return "site"
    if "e2e" in item.path.parts and any(part in item.nodeid for part in _WITH_SERVICES):
        return _SERVICES
    if "e2e" in item.path.parts and "stack" in getattr(item, "fixturenames", ()):
        return _SERVICES
    return "" if any(part in item.nodeid for part in _APART) else item.nodeid.partition("::")[0]
