"""The files of the page at `/`: what is served, with which headers, and what they refer to."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from posixpath import join, normpath
from typing import Final

import pytest

import gateway
from fovea.wire.formats import WIRE_FORMATS
from tests.unit.gateway.conftest import Gateway

FOLDER: Final = Path(gateway.__file__).parent / "http" / "page"
FILES: Final = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
IMPORT: Final = re.compile(r"""^(?:import|export)\b.*?from "([^"]+)";""", re.M | re.S)


class References(HTMLParser):
    """What a document loads, links to, and has inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.inline: list[str] = []
        self._is_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_script = tag in ("script", "style")
        for name, value in attrs:
            if name in ("src", "href"):
                self.found.add(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._is_script and data.strip():
            self.inline.append(data)


async def test_the_page_refers_only_to_files_of_its_own(gateway: Gateway) -> None:
    page = await gateway.http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    references = References(page.text)
    assert not references.inline
    reached = {url for url in references.found if not url.startswith(("data:", "#")) and url != "docs"}
    assert "page/main.js" in reached
    waiting = list(reached)
    while waiting:
        url = waiting.pop()
        response = await gateway.http.get(f"/{url}")
        assert response.status_code == 200, url
        assert response.headers["content-type"].startswith("text/css" if url.endswith(".css") else "text/javascript")
        assert "://" not in response.text
        for imported in IMPORT.findall(response.text):
            target = normpath(join("page", imported))
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    # No file is left over.
    assert reached == {f"page/{name}" for name in FILES if name.endswith((".css", ".js"))}


@pytest.mark.parametrize("name", FILES)
async def test_each_file_is_served_with_a_strict_policy(gateway: Gateway, name: str) -> None:
    path = "/" if name == "index.html" else f"/page/{name}"
    response = await gateway.http.get(path)
    assert response.content == (FOLDER / name).read_bytes()
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "connect-src": "'self'",
        "media-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert response.headers["permissions-policy"].startswith("camera=(self)")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert (await gateway.http.head(path)).status_code == 200
    unchanged = await gateway.http.get(path, headers={"If-None-Match": response.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (await gateway.http.post(path)).status_code == 405


@pytest.mark.parametrize("path", ["/page", "/page/", "/page/../page.py", "/page/%2e%2e/app.py", "/page/index.html"])
async def test_no_other_file_can_be_reached(gateway: Gateway, path: str) -> None:
    assert (await gateway.http.get(path)).status_code == 404


async def test_the_page_offers_every_wire_format() -> None:
    (listed,) = re.findall(r"WIRE_FORMATS = (\[.*?\]);", (FOLDER / "setting.js").read_text())
    assert set(json.loads(listed)) == set(WIRE_FORMATS)


async def test_samples_are_small_images_with_questions() -> None:
    samples = json.loads((FOLDER / "samples" / "samples.json").read_text())
    assert {sample["file"] for sample in samples} == {path.name for path in (FOLDER / "samples").glob("*.png")}
    for sample in samples:
        assert sample["title"]
        assert sample["questions"]
        assert (FOLDER / "samples" / sample["file"]).stat().st_size < 100_000
