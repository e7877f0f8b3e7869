"""What a page in a real browser may do to a gateway on the same machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import pytest
from playwright.async_api import Browser, async_playwright

from tests.chromium import CHROMIUM, FLAGS
from tests.local_http_server import LocalHttpServer
from tests.unit.gateway.conftest import Gateway, StartGateway, ask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian package chromium)"),
]
EVIL, LAN = "evil.test", "gateway.test"
TIMEOUT_S: Final = 120


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page of another site</title>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    """Port of a server of pages that are not the gateway's."""
    with LocalHttpServer(_Page) as server:
        yield server.server_port


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser for which the names of both sites lead to this machine."""
    names = f"--host-resolver-rules=MAP {EVIL} 127.0.0.1,MAP {LAN} 127.0.0.1"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, names])
        yield browser
        await browser.close()


async def run_in(browser: Browser, url: str, script: str, *, bypass_csp: bool = False) -> Any:
    """Result of a script, the body of an asynchronous function, in a page at `url` with a profile of its own.

    With `bypass_csp` the page's Content-Security-Policy is ignored.
    """
    async with asyncio.timeout(TIMEOUT_S):
        page = await browser.new_page(bypass_csp=bypass_csp)
        await page.goto(url)
        result = await page.evaluate(f"(async () => {{ {script} }})()")
        await page.close()
    return result


def port_of(gateway: Gateway) -> int:
    port = gateway.http.base_url.port
    assert port is not None
    return port


# Everything that a page may send to another origin without being asked for permission first.
ATTACKS = """
    const url = %s, body = %s;
    const send = (options) => fetch(url, {method: "POST", mode: "no-cors", ...options}).catch(() => {});
    await send({body, headers: {"content-type": "text/plain"}});
    await send({body: new Blob([body])});  // no content type
    await send({body: new URLSearchParams({question: "What?"})});
    const form = document.createElement("form"), frame = document.createElement("iframe");
    frame.name = "frame";
    form.method = "post"; form.action = url; form.target = "frame"; form.enctype = %s;
    const question = document.createElement("input");
    question.name = "question"; question.value = "What?";
    form.append(question);
    document.body.append(frame, form);
    const loaded = new Promise((resolve) => frame.onload = resolve);
    form.submit();
    await loaded;
"""


@pytest.mark.parametrize("site", [EVIL, "127.0.0.1"])  # another site, and another port of the same
async def test_a_page_of_another_origin_is_refused(
    start_gateway: StartGateway, browser: Browser, other_port: int, site: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(over_tcp=True)
    url = json.dumps(f"http://127.0.0.1:{port_of(gateway)}/v1/answer")
    script = ATTACKS % (url, json.dumps(json.dumps(ask())), json.dumps("multipart/form-data"))
    with caplog.at_level("INFO", logger="gateway.audit"):
        await run_in(browser, f"http://{site}:{other_port}/", script)
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.audit"]
    outcomes = [line.split()[2:4] for line in lines if "POST" in line]
    assert outcomes == [["403", "forbidden_origin"]] * 4
    assert not gateway.encoder.calls


async def test_a_page_that_lets_its_own_name_lead_here_is_refused(
    start_gateway: StartGateway, browser: Browser
) -> None:
    gateway = await start_gateway(over_tcp=True)
    script = """
        const response = await fetch("/v1/answer", {method: "POST", body: %s});
        return [response.status, (await response.json()).error.code];
    """
    page = f"http://{EVIL}:{port_of(gateway)}/docs"
    # The page is not the gateway's: it came before the name was changed to lead here, so it has no policy.
    script %= json.dumps(json.dumps(ask()))
    got = await run_in(browser, page, script, bypass_csp=True)
    assert got == [403, "forbidden_host"]
    assert not gateway.encoder.calls


# Presses the buttons of Swagger UI, and returns the status that it shows.
TRY_IT_OUT = """
    const find = async (selector) => {
        for (;;) {
            const found = document.querySelector(selector);
            if (found) return found;
            await new Promise((resolve) => requestAnimationFrame(resolve));
        }
    };
    const operation = '[id$="answer_v1_answer_post"]';
    (await find(operation + " .opblock-summary-control")).click();
    (await find(operation + " .try-out__btn")).click();
    (await find(operation + " .execute")).click();
    return (await find(operation + " .live-responses-table tr.response .response-col_status")).textContent;
"""


@pytest.mark.parametrize("host", ["127.0.0.1", LAN])  # browsers send Sec-Fetch-Site to the first only
async def test_the_documentation_sends_requests_from_its_own_origin(
    start_gateway: StartGateway, browser: Browser, host: str
) -> None:
    gateway = await start_gateway(over_tcp=True, allowed_hosts=LAN)
    page = f"http://{host}:{port_of(gateway)}/docs"
    assert await run_in(browser, page, TRY_IT_OUT) == "200"
    assert gateway.encoder.calls


async def test_a_page_of_an_allowed_origin_reads_answers_and_errors(
    start_gateway: StartGateway, browser: Browser, other_port: int
) -> None:
    origin = f"http://{EVIL}:{other_port}"
    gateway = await start_gateway(over_tcp=True, cors_origins=origin)
    script = """
        const ask = async (body) => {
            const headers = {"content-type": "application/json", authorization: "Bearer key", "x-stainless-lang": "js"};
            const response = await fetch(%s, {method: "POST", headers, body});
            return [response.status, response.headers.has("x-request-id"), Object.keys(await response.json())[0]];
        };
        return [await ask(%s), await ask("{}")];
    """
    url = json.dumps(f"http://127.0.0.1:{port_of(gateway)}/v1/answer")
    got = await run_in(browser, f"{origin}/", script % (url, json.dumps(json.dumps(ask()))))
    assert got == [[200, True, "id"], [422, True, "error"]]
