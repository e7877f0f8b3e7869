"""Links between the pages lead to files and headings that exist, and options that pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from encoder_service.settings import EncoderSettings
from gateway.settings import GatewaySettings
from llm_service.settings import LLMSettings

ROOT = Path(__file__).parents[3]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(ROOT.glob("*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Pages that name no option of another program.
WITH_OWN_OPTIONS = ("docs/troubleshooting.md", "docs/limits.md")
SETTINGS = (EncoderSettings, GatewaySettings, LLMSettings)


def text_of(page: Path) -> str:
    """Text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


def own_options() -> set[str]:
    """Options of the services and of the command `fovea`."""
    of_services = {f"--{name.replace('_', '-')}" for settings in SETTINGS for name in settings.model_fields}
    sources = (path.read_text() for path in (ROOT / "fovea/cli").glob("*.py"))
    return of_services | {option for source in sources for option in re.findall(r'"(--[a-z][a-z0-9-]+)"', source)}


@pytest.mark.parametrize("name", WITH_OWN_OPTIONS)
def test_each_option_that_a_page_names_exists(name: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text_of(ROOT / name)))
    assert named
    assert not named - own_options()
