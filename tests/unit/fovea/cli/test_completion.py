"""`fovea completion`: the script in a real shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fovea.cli import main


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fovea ch", {"chat"}),
        ("fovea ask --keep-", {"--keep-tokens", "--keep-ratio"}),
        ("fovea ask --cache ", {"use", "refresh", "bypass"}),
        ("fovea keys re", {"revoke"}),
    ],
)
def test_bash_completes_commands_and_options(
    typed: str, offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bash = shutil.which("bash")
    assert bash
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    words = " ".join(f'"{word}"' for word in typed.split(" "))
    number = len(typed.split(" ")) - 1
    code = (
        f"source {script}; complete -p fovea >&2; COMP_WORDS=({words}); COMP_CWORD={number}; "
        'f=$(complete -p fovea | sed "s/.*-F \\([^ ]*\\).*/\\1/"); '
        f'"$f" fovea "${{COMP_WORDS[{number}]}}"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run([bash, "--norc", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(done.stdout.split()) == offered, done.stderr


def test_zsh_has_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert "--keep-tokens" in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "fish"])
    assert "'bash', 'zsh'" in capsys.readouterr().err
