"""MkDocs hook: pages keep their paths in the repository, so that one relative link works there and on the site.

`docs/pruners.md` and `benchmarks/results/accuracy.md` are files of the site under these names, with the addresses
`pruners/` and `benchmarks/results/accuracy/`. Names in `nav` are paths in the repository as well. MkDocs then resolves
links, images and anchors between all of them by itself, and `mkdocs build --strict` fails for one that leads nowhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]

PAGES: Final = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/**/*.md",
    "examples/README.md",
    "encoder_service/*.md",
    "gateway/*.md",
    "lab/**/*.md",
    "llm_service/*.md",
    "tests/*/README.md",
)
"""Pages outside of docs/."""

FILES: Final = (
    "benchmarks/results/*.json",
    "benchmarks/results/*.png",
    "deploy/grafana/dashboard.json",
    "deploy/prometheus/*.y*ml",
    "lab/world576/scenes.jpg",
    "proto/fovea/v1/*.proto",
)
"""Files outside of docs/ that pages show or offer to download."""


NOT_SEARCHED: Final = ("benchmarks/results/", "docs/adr/")
"""Folders whose pages the search leaves out: their tables and reasons would come before the pages that explain."""


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Markdown of a page, unchanged. Pages of `NOT_SEARCHED` are taken out of the search."""
    if page.file.src_uri.startswith(NOT_SEARCHED):
        page.meta["search"] = {"exclude": True}
    return markdown


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All files of the site: those of docs/ and of the theme, and `PAGES` and `FILES`."""
    own = [file for file in files if file.src_dir == config.docs_dir]
    for file in own:
        files.remove(file)
        files.append(_file(f"docs/{file.src_uri}", file.dest_uri, config))
    for pattern in (*PAGES, *FILES):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(_file(name, None, config))
    return files


def _file(name: str, address: str | None, config: MkDocsConfig) -> File:
    """A file of the site.

    Args:
        name: path in the repository.
        address: path on the site; None for the one that MkDocs derives from the name.
    """
    return File(name, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=address)
