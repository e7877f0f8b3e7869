from __future__ import annotations

import pytest

from llm_service.settings import LLMSettings


def test_files_of_a_server_become_its_tls() -> None:
    argv = ["--model", "x", "--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-client-ca", "ca.pem"]
    tls = LLMSettings.from_command_line(argv).tls
    assert tls is not None
    assert (tls.cert, tls.key, tls.client_ca) == ("c.pem", "k.pem", "ca.pem")
    assert LLMSettings.from_command_line(["--model", "x"]).tls is None


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--tls-cert", "c.pem"], "--tls-key (LLM_TLS_KEY)"),
        (["--tls-key", "k.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", "ca.pem"], "--tls-client-ca (LLM_TLS_CLIENT_CA)"),
    ],
)
def test_files_that_do_not_go_together_are_named(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        LLMSettings.from_command_line(["--model", "x", *argv])
    assert status.value.code == 2
    assert says in capsys.readouterr().err
