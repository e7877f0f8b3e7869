"""A server that strangers can reach says so in its log, and which settings close it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fovea.rpc.bearer_tokens import token_line
from fovea.rpc.server import GrpcServer, ServerConfig
from tests.certificates import Authority


async def warnings(listen: str, caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    """Warnings of a server that is started and stopped."""
    caplog.clear()
    server = GrpcServer(ServerConfig(listen, max_message_bytes=2**20, max_concurrent_rpcs=8, **options), services=[])
    await server.start()
    await server.drain(0)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


async def test_an_open_address_without_tls_or_callers_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("site", "a token of this site"))
    (open_to_all,) = await warnings("0.0.0.0:0", caplog)
    assert "everyone who reaches 0.0.0.0:0 may call this service and read what is sent" in open_to_all
    assert "--tls-cert, --tls-key and --token-file" in open_to_all
    (without_callers,) = await warnings("0.0.0.0:0", caplog, tls=authority.server(mutual=False))
    assert without_callers.endswith("may call this service; set --token-file or --tls-client-ca")
    (without_tls,) = await warnings("0.0.0.0:0", caplog, token_file=str(tokens))
    assert "tokens without TLS" in without_tls
    for closed in ({"tls": authority.server()}, {"tls": authority.server(mutual=False), "token_file": str(tokens)}):
        assert await warnings("0.0.0.0:0", caplog, **closed) == []
    for loopback in ("127.0.0.1:0", "localhost:0"):
        assert await warnings(loopback, caplog) == []
