"""The site that `make docs` builds: same content as the pages in the repository, and nothing from another host."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from docsite.repository_files import PAGES

ROOT = Path(__file__).parents[3]
SOURCES = sorted({path for pattern in ("docs/**/*.md", *PAGES) for path in ROOT.glob(pattern)})
COMPARED = {"h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "tr", "td", "pre", "code", "img", "strong", "em"}
FETCHED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}

pytestmark = pytest.mark.slow


class Elements(HTMLParser):
    """Elements of a page.

    Attributes:
        addresses: what a browser fetches for the page by itself.
        counts: number of elements by name, in the article of a page of the site or in the whole text.
        classes: all classes.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses, self.classes = set[str](), set[str]()
        self.counts = Counter[str]()
        self._counting = "<article" not in html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes |= set((values.get("class") or "").split())
        self._counting |= tag == "article"
        if self._counting and tag in COMPARED:
            self.counts[tag] += 1
        if tag in FETCHED and (address := values.get(FETCHED[tag])):
            self.addresses.add(address)

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self._counting = False


def address(source: Path) -> str:
    """Path on the site of a page in the repository, "" for the front page."""
    name = source.relative_to(ROOT).as_posix().removeprefix("docs/").removesuffix(".md")
    return re.sub(r"(^|/)README$", "", name)


@pytest.mark.parametrize("source", SOURCES, ids=[path.relative_to(ROOT).as_posix() for path in SOURCES])
def test_a_page_has_the_lists_tables_and_blocks_that_it_has_in_the_repository(source: Path, site: Path) -> None:
    """Repositories show CommonMark with tables; MkDocs has a dialect of its own, which nests lists by four spaces."""
    text = re.sub(r"\A---\n.*?\n---\n", "", source.read_text(), flags=re.S)
    expected = Elements(MarkdownIt("commonmark").enable("table").render(text)).counts
    assert Elements((site / address(source) / "index.html").read_text()).counts == expected


def test_a_browser_fetches_nothing_from_another_host(site: Path) -> None:
    pages = [Elements(path.read_text()) for path in site.rglob("*.html")]
    addresses = {address for page in pages for address in page.addresses}
    assert len(addresses) > 5
    assert not {address for address in addresses if re.match(r"[a-z]*:?//", address)}
    assert not any("mermaid" in page.classes for page in pages), "the theme fetches mermaid from another host"
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", styles)
