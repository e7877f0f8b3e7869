"""The file of API keys: its lines, what `fovea keys` makes of it, and how it is read while it changes."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from fovea.api_keys.key_file import AcceptedKeys, read_keys
from fovea.api_keys.key_lines import ApiKey, ClientLimits, parse_lines
from fovea.cli import main
from fovea.rpc.credential_files import CredentialsError
from fovea.rpc.hashed_tokens import digest_of

KEY = "fovea-" + "k" * 43
DIGEST = digest_of(KEY)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_KEYS_FILE", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def added(path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Function that runs `fovea keys add` and returns the key."""

    def run(*words: str) -> str:
        assert main(["keys", "add", "--file", str(path), *words]) == 0
        return capsys.readouterr().out.removesuffix("\n")

    return run


def test_a_line_has_name_digest_tenant_and_limits() -> None:
    line = f"alice {DIGEST} tenant=acme requests_per_minute=60 concurrency=4 megapixels_per_minute=1000000"
    (key,) = parse_lines(f"# our clients\n\n  {line}\n")
    assert key == ApiKey("alice", DIGEST, "acme", ClientLimits(60, 4, 1_000_000))
    assert key.line == line
    (plain,) = parse_lines(f"bob {DIGEST}")
    assert (plain.tenant, plain.limits, plain.line) == ("bob", ClientLimits(), f"bob {DIGEST}")


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        f"alice {KEY}",
        f"alice {DIGEST.upper()}",
        f"al/ice {DIGEST}",
        f"{'a' * 65} {DIGEST}",
        f"alice {DIGEST} tenant=",
        f"alice {DIGEST} tenant=a tenant=b",
        f"alice {DIGEST} requests=1",
        f"alice {DIGEST} concurrency=0",
        f"alice {DIGEST} concurrency=1.5",
        f"alice {DIGEST} concurrency=²",
        f"alice {DIGEST} concurrency=1000001",
        f"alice {DIGEST} concurrency=1 concurrency=1",
        f"alice {DIGEST}\nbob {DIGEST}",
    ],
)
def test_a_line_of_another_form_is_refused_by_number_and_not_quoted(line: str) -> None:
    with pytest.raises(ValueError, match=r"line [12] ") as caught:
        parse_lines(line)
    assert KEY not in str(caught.value)
    assert DIGEST not in str(caught.value)


def test_a_new_key_is_printed_once_and_is_not_in_the_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "add", "alice", "--file", str(path)]) == 0
    printed = capsys.readouterr()
    key = printed.out.removesuffix("\n")
    assert key.startswith("fovea-")
    assert len(key) == len("fovea-") + 43
    assert key.isprintable()
    assert " " not in key
    assert key not in printed.err
    assert key not in path.read_text()
    found = AcceptedKeys(str(path)).key_of(f"Bearer {key}")
    assert found is not None
    assert (found.name, found.tenant) == ("alice", "alice")


def test_only_standard_output_has_the_key(tmp_path: Path) -> None:
    command = f'KEY=$({sys.executable} -m fovea.cli keys add alice 2>/dev/null) && printf %s "$KEY"'
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert AcceptedKeys(str(tmp_path / "fovea-keys")).key_of(f"Bearer {done.stdout}") is not None


def test_the_content_of_the_file_grants_no_access(path: Path, added: Callable[..., str]) -> None:
    key = added("alice")
    keys = AcceptedKeys(str(path))
    assert keys.key_of(f"Bearer {digest_of(key)}") is None
    assert keys.key_of(f"Bearer {path.read_text().strip()}") is None


@pytest.mark.parametrize(
    "form", ["", "Bearer ", "Bearer {key}x", "Basic {key}", "{key}", "Bearer  {key}", "Bearerx{key}"]
)
def test_an_authorization_without_an_accepted_key_is_nobodys(path: Path, added: Callable[..., str], form: str) -> None:
    key = added("alice")
    keys = AcceptedKeys(str(path))
    assert keys.key_of(form.format(key=key)) is None
    assert keys.key_of(f"bearer {key}") is not None


def test_a_key_is_changed_by_a_second_one_of_its_name(
    path: Path, added: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    old = added("alice", "--tenant", "acme", "--requests-per-minute", "60", "--concurrency", "4")
    keys = AcceptedKeys(str(path))
    new = added("alice", "--concurrency", "8")
    both = [keys.key_of(f"Bearer {key}") for key in (old, new)]
    assert [(key.tenant, key.limits) for key in both if key] == [
        ("acme", ClientLimits(60, 4)),
        ("acme", ClientLimits(60, 8)),
    ]
    assert main(["keys", "revoke", "alice", "--digest", digest_of(old)[:12], "--file", str(path)]) == 0
    assert keys.key_of(f"Bearer {old}") is None
    assert keys.key_of(f"Bearer {new}") is not None
    assert main(["keys", "revoke", "alice", "--file", str(path)]) == 0
    assert keys.key_of(f"Bearer {new}") is None
    capsys.readouterr()
    assert main(["keys", "revoke", "alice", "--file", str(path)]) == 1
    assert "has no key of alice" in capsys.readouterr().err


def test_a_change_keeps_comments_other_lines_mode_and_links(tmp_path: Path, added: Callable[..., str]) -> None:
    path = tmp_path / "keys"
    real = tmp_path / "real"
    real.write_text(f"# the team\n\nbob {DIGEST}   concurrency=1\n# end, without a line end")
    real.chmod(0o640)
    path.symlink_to(real)
    before = real.read_text()
    added("alice")
    assert real.read_text().startswith(before + "\nalice ")
    assert main(["keys", "revoke", "alice", "--file", str(path)]) == 0
    assert real.read_text() == before + "\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert path.is_symlink()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["keys", "real"]


def test_a_new_file_is_for_its_owner_alone(path: Path, added: Callable[..., str]) -> None:
    before = os.umask(0)
    try:
        added("alice")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_writers_at_the_same_time_lose_no_key(path: Path) -> None:
    def write(number: int) -> int:
        return main(["keys", "add", f"client-{number}", "--file", str(path)])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, range(40))) == {0}
    assert {key.name for key in read_keys(path)} == {f"client-{number}" for number in range(40)}


def test_a_file_with_a_wrong_line_is_not_changed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(f"alice {KEY}\n")
    for words in (["add", "bob"], ["revoke", "alice"], ["list"]):
        assert main(["keys", *words, "--file", str(path)]) == 1
        printed = capsys.readouterr()
        assert "line 1 is not NAME SHA256" in printed.err
        assert KEY not in printed.err + printed.out
    assert path.read_text() == f"alice {KEY}\n"


def test_the_list_names_what_is_accepted_and_no_key(
    path: Path, added: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    key = added("alice", "--tenant", "acme", "--megapixels-per-minute", "500")
    assert main(["keys", "list", "--file", str(path)]) == 0
    listed = capsys.readouterr().out
    assert listed == f"alice {digest_of(key)[:12]} tenant=acme megapixels_per_minute=500\n"


def test_the_variable_of_the_gateway_names_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_KEYS_FILE", str(path))
    assert main(["keys", "add", "alice"]) == 0
    assert [key.name for key in read_keys(path)] == ["alice"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        (["add", "a b"], "1 to 64 letters"),
        (["add", "alice", "--tenant", ""], "1 to 64 letters"),
        (["add", "alice", "--concurrency", "0"], "a whole number from 1 to 1000000"),
        (["add"], "required: NAME"),
        (["change"], "invalid choice"),
    ],
)
def test_wrong_words_are_refused(words: list[str], accepted: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["keys", *words])
    assert left.value.code == 2
    assert accepted in capsys.readouterr().err


def test_a_broken_change_keeps_the_last_good_keys_is_logged_once_and_counted(
    path: Path, added: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    key = added("alice")
    keys = AcceptedKeys(str(path))
    before = REGISTRY.get_sample_value("fovea_failures_total", {"kind": "credentials"}) or 0
    path.write_text("alice half-a-line")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert keys.key_of(f"Bearer {key}") is not None
    assert caplog.text.count("keeping the last good credentials") == 1
    assert REGISTRY.get_sample_value("fovea_failures_total", {"kind": "credentials"}) == before + 1


def test_a_file_without_keys_is_warned_of_at_the_start_and_when_it_becomes_empty(
    path: Path, added: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    warning = f"{path} has no API key: every request is refused with 401; `fovea keys add` adds one"

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    path.write_text("# nobody yet\n")
    keys = AcceptedKeys(str(path))
    assert warnings() == [warning]
    key = added("alice")
    assert keys.key_of(f"Bearer {key}") is not None
    assert warnings() == [warning]
    path.write_text("")
    for _ in range(3):
        assert keys.key_of(f"Bearer {key}") is None
    assert warnings() == [warning, warning]


def test_a_missing_file_is_an_error_at_the_start(path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"there is no file of API keys at .*; fovea keys add NAME --file"):
        AcceptedKeys(str(path))
