"""What pages in a browser may do: hosts, origins, CORS, and the headers of every response."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import Gateway, StartGateway, ask

APP = "https://app.example"
OWN = "http://localhost"  # the origin that the test client's requests have in Host


async def post(gateway: Gateway, body: Any = None, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.post("/v1/answer", json=ask() if body is None else body, headers=names)


def code(response: httpx.Response) -> str:
    return "ok" if response.status_code == 200 else str(response.json()["error"]["code"])


# Headers of a request, and the outcome where `APP` is allowed.
ORIGINS: list[tuple[dict[str, str], str]] = [
    ({}, "ok"),  # curl, SDKs
    ({"origin": OWN}, "ok"),  # /docs over plain HTTP from another machine: no Sec-Fetch-Site
    ({"origin": OWN, "sec_fetch_site": "same-origin"}, "ok"),
    ({"origin": "https://localhost"}, "ok"),  # behind a proxy with TLS
    ({"origin": "https://front.example", "sec_fetch_site": "same-origin"}, "ok"),  # a proxy that changes Host
    ({"sec_fetch_site": "none"}, "ok"),  # the user, not a page
    ({"origin": APP}, "ok"),
    ({"origin": APP, "sec_fetch_site": "cross-site"}, "ok"),
    ({"origin": APP, "sec_fetch_site": "same-site"}, "ok"),
    ({"origin": "https://evil.example"}, "forbidden_origin"),
    ({"origin": "https://evil.example", "sec_fetch_site": "cross-site"}, "forbidden_origin"),
    ({"origin": "http://localhost:3000"}, "forbidden_origin"),  # another port is another origin
    ({"origin": "http://localhost:3000", "sec_fetch_site": "same-site"}, "forbidden_origin"),
    ({"origin": OWN, "sec_fetch_site": "cross-site"}, "forbidden_origin"),  # a page over HTTP, this server over TLS
    ({"origin": "null"}, "forbidden_origin"),  # a sandboxed frame, a file
    ({"origin": "null", "sec_fetch_site": "cross-site"}, "forbidden_origin"),
    ({"origin": ""}, "forbidden_origin"),
    ({"sec_fetch_site": "cross-site"}, "forbidden_origin"),
    ({"sec_fetch_site": "same-site"}, "forbidden_origin"),
    ({"sec_fetch_site": "of a later browser"}, "forbidden_origin"),
    ({"origin": APP + ".evil.example"}, "forbidden_origin"),
    ({"origin": APP + ":8443"}, "forbidden_origin"),
    ({"origin": "http://app.example"}, "forbidden_origin"),
]


async def test_a_request_of_a_page_needs_an_allowed_origin(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(cors_origins=APP)
    for headers, expected in ORIGINS:
        gateway.encoder.calls.clear()
        response = await post(gateway, ask(cache="bypass"), **headers)
        assert (headers, code(response)) == (headers, expected)
        assert len(gateway.encoder.calls) == (expected == "ok")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None])
async def test_what_a_page_may_send_without_asking_is_refused_before_it_is_read(
    gateway: Gateway, kind: str | None
) -> None:
    headers = {"origin": "https://evil.example", **({"content-type": kind} if kind else {})}
    response = await gateway.http.post("/v1/answer", content=b"{", headers=headers)
    assert (response.status_code, code(response)) == (403, "forbidden_origin")
    assert "--cors-origins" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/answer", "/v1/explain", "/v1/chat/completions", "/v1/models", "/v1/nothing"])
async def test_every_path_of_the_api_is_checked(gateway: Gateway, path: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        response = await gateway.http.request(method, path, headers={"origin": "https://evil.example"})
        assert (response.status_code, code(response)) == (403, "forbidden_origin")
        assert "access-control-allow-origin" not in response.headers


async def test_a_link_to_the_docs_works_from_any_page(gateway: Gateway) -> None:
    for path in ("/docs", "/openapi.json", "/healthz"):
        assert (await gateway.http.get(path, headers={"sec-fetch-site": "cross-site"})).status_code == 200


LOOPBACK, ALL = "127.0.0.1:8000", "0.0.0.0:8000"


@pytest.mark.parametrize(
    ("listen", "allowed", "accepted", "refused"),
    [
        (
            LOOPBACK,
            "",
            ["127.0.0.1:8000", "localhost", "LOCALHOST:8000", "localhost.", "[::1]:8000", "10.0.0.7", ""],
            [
                "evil.example:8000",
                "localhost.evil.example",
                "127.0.0.1.nip.io",
                "127.1",
                "2130706433",
                "[evil]",
                "a@localhost",
            ],
        ),
        ("localhost:8000", "", ["localhost"], ["evil.example"]),
        ("[::1]:8000", "", ["[::1]:8000"], ["evil.example"]),
        (ALL, "", ["fovea.example:8000", "10.0.0.7"], []),
        (ALL, "fovea.example", ["fovea.example:8000", "10.0.0.7:8000"], ["evil.example", "www.fovea.example"]),
        (LOOPBACK, "fovea.example, bücher.example", ["xn--bcher-kva.example", "Fovea.example"], ["evil.example"]),
        (LOOPBACK, "*", ["evil.example"], []),
    ],
)
async def test_a_name_in_host_must_be_one_of_this_server(
    start_gateway: StartGateway, listen: str, allowed: str, accepted: list[str], refused: list[str]
) -> None:
    gateway = await start_gateway(listen=listen, allowed_hosts=allowed, allow_anonymous=True)
    for host in accepted + refused:
        # A page whose own name leads to this server is of the same origin for the browser.
        response = await post(gateway, host=host, origin=f"http://{host}", sec_fetch_site="same-origin")
        assert (host, code(response)) == (host, "ok" if host in accepted else "forbidden_host")
        page = await gateway.http.get("/docs", headers={"host": host})
        assert (host, page.status_code) == (host, 200 if host in accepted else 403)


async def preflight(gateway: Gateway, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    return await gateway.http.options("/v1/answer", headers=headers)


async def test_a_page_of_an_allowed_origin_reads_answers_errors_and_defects(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway(cors_origins=f"{APP}, http://localhost:3000", max_body_bytes=5000)
    before = await preflight(gateway, APP)
    assert before.status_code == 200
    allowed = before.headers["access-control-allow-headers"].split(",")
    assert {"authorization", "content-type", "x-stainless-lang"} <= set(allowed)
    answer = await post(gateway, origin=APP)
    invalid = await post(gateway, {}, origin=APP)
    too_large = await post(gateway, {"question": "x" * 5000}, origin=APP)
    monkeypatch.setattr("gateway.http.surfaces.answer.admitted", lambda *_: 1 / 0)
    defect = await post(gateway, origin=APP)
    assert [one.status_code for one in (answer, invalid, too_large, defect)] == [200, 422, 413, 500]
    for response in (answer, invalid, too_large, defect):
        assert response.headers["access-control-allow-origin"] == APP
        assert set(response.headers["access-control-expose-headers"].split(", ")) == {"x-request-id", "Retry-After"}
        assert "access-control-allow-credentials" not in response.headers
        assert "Origin" in response.headers["vary"]
        assert response.headers["x-request-id"]


async def test_cors_is_off_by_default(gateway: Gateway) -> None:
    assert (await preflight(gateway, APP)).status_code == 403
    assert (await preflight(gateway, OWN)).status_code == 405
    assert not any(name.startswith("access-control") for name in (await post(gateway, origin=OWN)).headers)


async def test_every_response_has_the_headers_that_restrict_its_use(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway(max_body_bytes=5000)
    get = gateway.http.get
    of_the_api = [
        await post(gateway),
        await post(gateway, ask(stream=True)),
        await post(gateway, {}),
        await post(gateway, {"question": "x" * 5000}),
        await post(gateway, origin="https://evil.example"),
        await post(gateway, host="evil.example"),
        await get("/v1/models"),
        await get("/v1/nothing"),
    ]
    monkeypatch.setattr("gateway.http.surfaces.answer.admitted", lambda *_: 1 / 0)
    of_the_api.append(await post(gateway))
    others = [await get(path) for path in ("/docs", "/openapi.json", "/healthz", "/nothing")]
    assert [one.status_code for one in of_the_api] == [200, 200, 422, 413, 403, 403, 200, 404, 500]
    for response in (*of_the_api, *others):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert ("script-src" in response.headers["content-security-policy"]) == (response is others[0])
        assert "strict-transport-security" not in response.headers
        assert len(response.headers.get_list("content-security-policy")) == 1
    assert all("no-store" in response.headers["cache-control"] for response in of_the_api)


async def test_browsers_are_told_to_keep_to_tls_by_a_server_with_tls(gateway: Gateway) -> None:
    response = await gateway.http.get("https://localhost/healthz")
    assert response.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--cors-origins", "*", "is not an origin"),
        ("--cors-origins", "null", "is not an origin"),
        ("--cors-origins", "app.example", "is not an origin"),
        ("--cors-origins", "https://app.example/", "is not an origin"),
        ("--cors-origins", "https://*.example", "is not an origin"),
        ("--allowed-hosts", "fovea.example:8000", "without user, port and path"),
        ("--allowed-hosts", "http://fovea.example", "is not a host name"),
    ],
)
def test_wrong_settings_are_named(flag: str, value: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        GatewaySettings.from_command_line(["--model", "m", flag, value])
    message = capsys.readouterr().err
    assert flag in message
    assert says in message


def test_origins_are_read_as_browsers_write_them() -> None:
    given = "HTTPS://App.Example:443, http://a.example:80,http://[::1]:3000,chrome-extension://abc"
    settings = GatewaySettings.from_command_line(["--model", "m", "--cors-origins", given])
    expected = ("https://app.example", "http://a.example", "http://[::1]:3000", "chrome-extension://abc")
    assert settings.cors_origins == expected
