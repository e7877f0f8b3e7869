from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.wire import link, link_transfer
from benchmarks.wire.namespaces import CLOUD_ADDRESS, NarrowLink, why_not
from fovea.wire.tensors import DTYPES

pytestmark = pytest.mark.slow

REASON = why_not()
needs_namespaces = pytest.mark.skipif(bool(REASON), reason=REASON)


def test_where_no_link_can_be_made_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert link.main([]) == 1
    assert capsys.readouterr().err.startswith("python -m benchmarks.link: ")


@pytest.fixture
def ends() -> Iterator[tuple[NarrowLink, socket.socket, socket.socket]]:
    """A link and a connection across it, seen from the edge and from the cloud."""
    with NarrowLink() as narrow:
        with narrow.at("cloud"):
            server = socket.create_server((CLOUD_ADDRESS, 5000))
        with narrow.at("edge"):
            edge = socket.create_connection((CLOUD_ADDRESS, 5000), timeout=60)
        cloud, _ = server.accept()
        cloud.settimeout(60)
        with server, edge, cloud:
            yield narrow, edge, cloud


def receive(end: socket.socket, size: int) -> None:
    while size:
        size -= len(end.recv(size))


@needs_namespaces
def test_bytes_are_counted_with_their_headers(ends: tuple[NarrowLink, socket.socket, socket.socket]) -> None:
    narrow, edge, cloud = ends
    narrow.limit(2)
    before = narrow.traffic()
    edge.sendall(bytes(100_000))
    receive(cloud, 100_000)
    crossed = narrow.traffic().to_cloud - before.to_cloud
    assert 100_000 < crossed < 120_000


@needs_namespaces
def test_a_cut_link_delivers_nothing_and_gives_no_error_until_it_is_mended(
    ends: tuple[NarrowLink, socket.socket, socket.socket],
) -> None:
    narrow, edge, cloud = ends
    narrow.limit(20)
    edge.sendall(b"before")
    receive(cloud, 6)
    narrow.cut()
    edge.sendall(b"during")
    cloud.settimeout(0.3)
    with pytest.raises(TimeoutError):
        cloud.recv(1)
    narrow.mend()
    cloud.settimeout(60)
    receive(cloud, 6)


def test_a_dtype_that_needs_a_basis_is_not_offered_for_messages_without_a_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for main, words in (
        (link.main, ["--transfer-dtypes", "basis"]),
        (link_transfer.main, ["send", "x:1", "1", "1", "basis", "1"]),
    ):
        with pytest.raises(SystemExit) as status:
            main(words)
        assert status.value.code == 2
        assert "'entropy'" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", link_transfer.TRANSFER_DTYPES)
def test_every_other_dtype_has_such_messages(dtype: str) -> None:
    assert set(link_transfer.TRANSFER_DTYPES) == set(DTYPES) - {"basis"}
    assert link_transfer.visual_tokens(4, 64, dtype).ByteSize() > 100


@needs_namespaces
def test_kept_tokens_are_as_much_smaller_on_the_link_as_they_are_fewer(tmp_path: Path) -> None:
    options = ["--parts", "transfers", "--transfers", "1", "--transfer-mbit-s", "100", "--transfer-dtypes", "float16"]
    assert link.main([*options, "--out", str(tmp_path)]) == 0
    before, after, kept = json.loads((tmp_path / "link.json").read_text())["transfers"]
    assert before["link_bytes"] / kept["link_bytes"] == pytest.approx(576 / 64, rel=0.05)
    assert after["link_bytes"] / kept["link_bytes"] == pytest.approx(4 * 576 / 64, rel=0.05)
    assert "## Sizing" in (tmp_path / "link.md").read_text()
