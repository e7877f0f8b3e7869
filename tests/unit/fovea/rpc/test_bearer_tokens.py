from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from fovea.rpc import bearer_tokens
from fovea.rpc.bearer_tokens import SiteTokens, bearer, token_line, watch_token
from fovea.rpc.credential_files import CredentialsError

BERLIN, OSLO = "berlin-token-0123456789", "oslo-token-0123456789"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sites"
    path.write_text(f"# the boxes\n\n{token_line('berlin', BERLIN)}\n{token_line('oslo', OSLO)}\n")
    return path


@pytest.mark.parametrize(
    ("authorization", "site"),
    [
        (bearer(BERLIN)[1], "berlin"),
        (bearer(OSLO)[1], "oslo"),
        (f"bearer {OSLO}", "oslo"),
        (bearer(BERLIN + "x")[1], None),
        (bearer("")[1], None),
        (f"Basic {BERLIN}", None),
        (BERLIN, None),
        ("", None),
    ],
)
def test_a_site_is_known_by_its_token(path: Path, authorization: str, site: str | None) -> None:
    assert SiteTokens(str(path)).site_of(authorization) == site


def test_the_content_of_the_token_file_grants_no_access(path: Path) -> None:
    sites = SiteTokens(str(path))
    digest = re.search("oslo=(.*)", path.read_text())
    assert digest is not None
    assert sites.site_of(bearer(digest[1])[1]) is None
    assert OSLO not in path.read_text()


def test_a_site_without_a_line_is_refused_and_one_with_two_may_use_both(path: Path) -> None:
    sites = SiteTokens(str(path))
    path.write_text(f"{token_line('oslo', OSLO)}\n{token_line('oslo', OSLO + '-next')}\n")
    assert sites.site_of(bearer(BERLIN)[1]) is None
    assert sites.site_of(bearer(OSLO)[1]) == sites.site_of(bearer(OSLO + "-next")[1]) == "oslo"


def test_a_file_that_becomes_invalid_is_logged_without_its_content_and_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sites = SiteTokens(str(path))
    path.write_text(f"berlin={BERLIN}\n")
    with caplog.at_level(logging.ERROR):
        assert sites.site_of(bearer(BERLIN)[1]) == "berlin"
    assert "line 1 is not SITE=SHA256" in caplog.text
    assert BERLIN not in caplog.text


def test_an_invalid_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="No such file"):
        SiteTokens(str(tmp_path / "missing"))
    (tmp_path / "empty").write_text("two words and more\n")
    with pytest.raises(CredentialsError, match="does not hold one token"):
        watch_token(str(tmp_path / "empty"))


def test_a_sites_own_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(BERLIN + "\n")
    token = watch_token(str(path))
    assert token.get() == BERLIN
    path.write_text(OSLO)
    assert token.get() == OSLO


def test_the_command_makes_a_token_and_a_line_that_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bearer_tokens.main(["berlin"]) == 0
    token, line = (text.split()[-1] for text in capsys.readouterr().out.splitlines())
    (tmp_path / "sites").write_text(line)
    (tmp_path / "token").write_text(token)
    assert (
        SiteTokens(str(tmp_path / "sites")).site_of(bearer(watch_token(str(tmp_path / "token")).get())[1]) == "berlin"
    )
    for words in (["a site"], ["-site"], ["--sites"], []):
        assert bearer_tokens.main(words) == 2
    assert not capsys.readouterr().out
    assert bearer_tokens.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")
