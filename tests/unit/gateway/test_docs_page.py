"""`/docs` without a network: the page loads only files of this server."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest

from tests.unit.gateway.conftest import Gateway

REFERENCE = re.compile(r"""(?:src|href)="([^"]*)"|url: "([^"]*)\"""")


async def test_the_page_loads_only_what_this_server_has(gateway: Gateway) -> None:
    page = await gateway.http.get("/docs")
    assert page.status_code == 200
    start = await gateway.http.get("/docs/start.js")
    found = {"".join(groups) for text in (page.text, start.text) for groups in REFERENCE.findall(text)}
    assert "://" not in page.text + start.text
    kinds = {}
    for url in found - {"data:,"}:
        response = await gateway.http.get(urljoin("http://localhost/docs", url))
        assert response.status_code == 200, url
        kinds[url] = response.headers["content-type"].partition(";")[0]
    assert kinds == {
        "docs/swagger-ui.css": "text/css",
        "docs/swagger-ui-bundle.js": "text/javascript",
        "docs/start.js": "text/javascript",
        "openapi.json": "application/json",
    }


async def test_the_packaged_swagger_ui_is_the_one_that_the_page_starts(gateway: Gateway) -> None:
    script = (await gateway.http.get("/docs/swagger-ui-bundle.js")).text
    assert "SwaggerUIBundle" in script
    assert "swagger-ui" in (await gateway.http.get("/docs/swagger-ui.css")).text
    assert (await gateway.http.get("/openapi.json")).json()["openapi"].startswith("3.1")


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"])
async def test_a_browser_is_told_to_ask_no_other_host(gateway: Gateway, path: str) -> None:
    response = await gateway.http.head(path)
    assert response.status_code == 200
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} == {
        "'none'",
        "'self'",
        "'unsafe-inline'",
        "data:",
    }
    assert "unsafe-inline" not in policy["script-src"]
    wrong = await gateway.http.post(path)
    assert (wrong.status_code, set(wrong.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect", "/docs/../gateway", "/docs/redoc.standalone.js"])
async def test_there_are_no_other_pages(gateway: Gateway, path: str) -> None:
    assert (await gateway.http.get(path)).status_code == 404
