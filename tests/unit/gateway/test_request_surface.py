"""Random requests: no response is a 5xx."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http.schemas.answer import AnswerRequest
from gateway.http.schemas.chat import ChatCompletionRequest
from gateway.http.schemas.explain import ExplainRequest
from tests.unit.gateway.conftest import Gateway, StartGateway, data_url, png

URL = data_url(png())
PATHS = {"/v1/answer": AnswerRequest, "/v1/explain": ExplainRequest, "/v1/chat/completions": ChatCompletionRequest}
FIELDS = sorted({name for kind in PATHS.values() for name in kind.model_fields} - {"timeout_s"})

WORDS = ["\x00", "\u2028", "\ufffe", "<image>", "<video>", "</s>", "{{ 7 }}", "%s{0}", "\x1b[2J", "auto", "nan", "-0"]
WORDS += ["1e999", "9" * 5000, "x" * 9000, "fastv", "desap", "none", URL, URL[:-1], "data:", "data:;base64,"]
WORDS += [
    f"https://{rest}"
    for rest in ("pictures.example/\x01", "pictures.example/" + "a" * 70_000, "xn--\u2488/", "[::1", "u@h:99999")
]
TEXTS = st.text(max_size=12) | st.sampled_from(WORDS)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**31, 2**32, 2**53, 2**63, 2**64, 10**400, -(2**63), -0.0])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "video_url", "audio"])},
    optional={
        "text": TEXTS | VALUES,
        "image_url": st.fixed_dictionaries({"url": TEXTS}, optional={"detail": TEXTS}) | VALUES,
        "video_url": st.fixed_dictionaries({"url": TEXTS}) | VALUES,
    },
)
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "user", "assistant", "system", "tool"]),
            "content": TEXTS | st.lists(PARTS | st.just(IMAGE), max_size=3),
        }
    ),
    max_size=3,
)
PRUNERS = st.fixed_dictionaries(
    {"name": TEXTS}, optional={"keep_ratio": NUMBERS, "keep_tokens": NUMBERS, "params": VALUES}
)
ASKED = st.fixed_dictionaries(
    {},
    optional={"question": TEXTS | st.just("What?"), "image": st.just(URL), "messages": MESSAGES, "llm_pruner": PRUNERS},
)
REQUESTS = st.builds(dict.__or__, ASKED, st.dictionaries(st.sampled_from(FIELDS) | TEXTS, VALUES | TEXTS, max_size=3))
HEADERS = st.dictionaries(
    st.sampled_from(
        [b"content-type", b"content-encoding", b"content-length", b"x-request-id", b"accept", b"host", b"traceparent"]
    ),
    st.binary(max_size=12)
    | st.sampled_from([b"9" * 5000, b"\xb2", b"-1", b"identity", b"a" * 9000, b"application/json; charset", b"utf-16"])
    | st.builds(b"multipart/form-data; boundary=%s".__mod__, st.binary(max_size=4)),
    max_size=2,
)
BOUNDLESS = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
PATH = st.sampled_from(sorted(PATHS))


@pytest.fixture
async def open_gateway(start_gateway: StartGateway) -> Gateway:
    """A gateway that may fetch URLs."""
    return await start_gateway(fetch_hosts="pictures.example")


async def sent(gateway: Gateway, path: str, **request: Any) -> None:
    response = await gateway.http.post(path, **request)
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"]
        assert "function-" not in error["message"]


@BOUNDLESS
@given(path=PATH, request=REQUESTS, headers=HEADERS)
async def test_json(open_gateway: Gateway, path: str, request: dict[str, Any], headers: dict[bytes, bytes]) -> None:
    content = json.dumps(request)  # lone surrogates escaped, NaN and Infinity written out
    await sent(open_gateway, path, content=content, headers=headers)


@BOUNDLESS
@given(path=PATH, body=st.binary(max_size=40) | st.text(max_size=40).map(str.encode), headers=HEADERS)
async def test_bytes(open_gateway: Gateway, path: str, body: bytes, headers: dict[bytes, bytes]) -> None:
    await sent(open_gateway, path, content=body, headers=headers)


@BOUNDLESS
@given(
    path=PATH,
    fields=st.lists(
        st.tuples(st.sampled_from(FIELDS) | TEXTS, st.booleans(), TEXTS.map(str.encode) | VALUES | MESSAGES | PRUNERS),
        max_size=5,
    ),
    filename=TEXTS,
)
async def test_forms(open_gateway: Gateway, path: str, fields: list[tuple[str, bool, Any]], filename: str) -> None:
    files = [
        (name, (filename if is_file else None, value if isinstance(value, bytes) else json.dumps(value)))
        for name, is_file, value in fields
    ]
    await sent(open_gateway, path, files=[("image", ("a.png", png())), *files])


@BOUNDLESS
@given(
    path=PATH,
    headers=st.lists(st.binary(max_size=30) | st.sampled_from(
        [b'Content-Disposition: form-data; name="question"', b"Content-Disposition: form-data; name*=x''%ff",
         b'Content-Disposition: form-data; name="image"; filename*=x', b"Content-Type: text/plain; charset=\xff",
         b"Content-Transfer-Encoding: base64", b'Content-Disposition: form-data; name="clear"; filename="x"']
    ), max_size=3),
    content=st.binary(max_size=20),
    end=st.sampled_from([b"--b--\r\n", b"", b"--b", b"--b--"]),
)  # fmt: skip
async def test_parts(open_gateway: Gateway, path: str, headers: list[bytes], content: bytes, end: bytes) -> None:
    body = b"--b\r\n" + b"\r\n".join([*headers, b"", content]) + b"\r\n" + end
    await sent(open_gateway, path, content=body, headers={"content-type": "multipart/form-data; boundary=b"})


@pytest.mark.parametrize(
    "body",
    [
        b'{"question": %s}' % (b"9" * 5000),
        b'{"temperature": %s}' % (b"9" * 4300),
        b'{"pruner_params": {"a": %s}}' % (b"9" * 4300),
        b'{"max_tokens": 1e999}',
        b'{"messages": %s%s}' % (b"[" * 190, b"]" * 190),
        b'{"pruner_params": %s1%s}' % (b'{"a":' * 190, b"}" * 190),
        b'{"question": "a", "question": "b"}',
        b'{"question": "\\ud83d\\ude00", "model": "\\udc00"}',
        b'{"\\ud800": 1}',
        b'\xef\xbb\xbf{"question": "a"}',
    ],
)
@pytest.mark.parametrize("path", sorted(PATHS))
async def test_bodies_that_random_tests_rarely_find(open_gateway: Gateway, path: str, body: bytes) -> None:
    response = await open_gateway.http.post(path, content=body)
    assert response.status_code in (400, 422), response.text


@pytest.mark.parametrize(
    "path", ["/", "/%00", "/%ff", "/docs/..%2f..", "/v1/%2e%2e/x", "/" + "a" * 5000, "/v1/pruners?%ff"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "TRACE", "FOO"])
async def test_paths_and_methods(open_gateway: Gateway, method: str, path: str) -> None:
    response = await open_gateway.http.request(method, path)
    exists = path == "/" or "pruners" in path
    assert response.status_code in ((200, 405) if exists else (404,))
