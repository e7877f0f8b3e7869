"""The `fovea` command in a shell."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from fovea.processes.stack import Stack, free_port
from tests.certificates import Authority
from tests.documented import ROOT
from tests.e2e.conftest import STARTUP_S, Pictures
from tests.lab_stack import ENVIRONMENT, RECOMMENDED
from tests.redis_server import RedisServer
from tests.video_heads import MP4_HEAD

QUESTION = "Is there a red star?"


def fovea(*words: str, environment: Mapping[str, str] = ENVIRONMENT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fovea.cli", *words],
        capture_output=True,
        text=True,
        timeout=STARTUP_S,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def picture_file(picture: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(picture)
    return path


def test_ask_prints_the_answer(stack: Stack, picture_file: Path) -> None:
    done = fovea("ask", str(picture_file), QUESTION, "--url", stack.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("yes", "no")


def test_ask_prints_the_object_and_draws_the_overlay(stack: Stack, picture_file: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "kept.png"
    done = fovea(
        *("ask", str(picture_file), QUESTION, "--url", stack.url),
        *("--json", "--keep-tokens", "9", "--explain", str(overlay)),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["visual_tokens_kept"] == 9
    with Image.open(overlay) as image:
        assert image.width > 1400  # four panels


def test_ask_takes_parameters_and_a_second_pruner(stack: Stack, picture_file: Path) -> None:
    done = fovea(
        *("ask", str(picture_file), QUESTION, "--url", stack.url, "--json", "--keep-tokens", "9"),
        *("--pruner-params", '{"task_share": 1, "text_rows": "words"}'),
        *("--llm-pruner", "fastv", "--llm-keep-tokens", "3", "--llm-pruner-params", '{"layer": 16}'),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] in ("yes", "no")


def test_ask_prints_the_answer_as_it_comes(stack: Stack, picture_file: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "kept.png"
    done = fovea("ask", str(picture_file), QUESTION, "--url", stack.url, "--stream", "--explain", str(overlay))
    assert done.returncode == 0, done.stderr
    assert done.stdout in ("yes\n", "no\n")
    assert overlay.is_file()


def test_ask_takes_pictures_on_both_sides_of_an_option(
    stack: Stack, picture_file: Path, pictures: Pictures, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(pictures.fresh())
    done = fovea(
        "ask", str(picture_file), "--url", stack.url, "--json", "--pruner", "none", str(other), "Which has a star?"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["visual_tokens_kept"] == 2 * 144


def test_ask_reads_standard_input_and_takes_every_field_of_the_api(stack: Stack, picture: bytes) -> None:
    words = ["-", QUESTION, "--url", f"{stack.url}/", "--json", "--pruner", "fovea", "--keep-tokens", "auto"]
    words += [
        "--seed",
        "3",
        "--temperature",
        "0.1",
        "--top-p",
        "0.9",
        "--stop",
        "x",
        "--stop",
        "z",
        "--cache",
        "bypass",
    ]
    words += ["--wire-dtype", "int8", "--max-wire-bytes", "1000", "--max-tokens", "4", "--timeout-s", "60"]
    done = subprocess.run(
        [sys.executable, "-m", "fovea.cli", "ask", *words], input=picture, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["usage"]["wire_dtype"] == "int8"
    assert 0 < answer["usage"]["wire_bytes"] <= 1000
    assert answer["cache"]["answer"] == "skip"


def test_a_chat_goes_on_about_its_image(stack: Stack, picture_file: Path, pictures: Pictures, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(pictures.fresh())
    lines = [QUESTION, "Is there a blue circle?", "/reset", f"/image {other}", "Which has a star?"]
    done = subprocess.run(
        [sys.executable, "-m", "fovea.cli", "chat", str(picture_file), "--url", stack.url, "--max-tokens", "8"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, _, _ = done.stdout.splitlines()
    assert first in ("yes", "no")
    assert done.stderr == "2 images\n"


def test_the_doctor_finds_nothing_wrong_with_a_running_gateway(stack: Stack) -> None:
    done = fovea("doctor", "--url", stack.url, "--listen", stack.url.removeprefix("http://"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    assert "is that of the gateway that runs" in done.stdout
    assert "ready, serves fovea-lab" in done.stdout
    assert "as the gateway's" in done.stdout


def test_explain_leaves_the_budget_to_the_pruner(stack: Stack, picture_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "explain.png"
    words = ["--pruner", "fovea", "--keep-tokens", "auto", "--cache", "bypass", "--out", str(out), "--url", stack.url]
    done = fovea("explain", str(picture_file), QUESTION, *words)
    assert done.returncode == 0, done.stderr
    assert "visual tokens kept" in done.stderr
    assert out.is_file()


def test_ask_says_what_is_wrong_in_one_line(stack: Stack, picture_file: Path, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    for words, says in (
        (("ask", str(tmp_path / "none.png"), QUESTION, "--url", stack.url), "cannot read"),
        (("ask", str(picture_file), QUESTION, "--url", nobody), "is `fovea up` running?"),
        (("ask", str(picture_file), QUESTION, "--url", stack.url, "--pruner", "nothing"), "status 404"),
        (("ask", str(picture_file), QUESTION, "--url", stack.url, "--explain", "/none/here.png"), "no folder"),
        (("ask", str(picture_file), QUESTION, "--url", stack.url, "--stream", "--pruner", "nothing"), "status 404"),
        (
            ("ask", str(picture_file), QUESTION, "--url", stack.url, "--pruner-params", '{"seed": 1}'),
            "no parameter 'seed'; accepted: task_share",
        ),
        (("ask", str(picture_file), QUESTION, "--url", stack.url, "--llm-pruner", "fastv"), "keep_tokens"),
        (("ask", QUESTION, "--video", str(picture_file), "--url", stack.url), "status 415"),
        (("ask", "https://example.com/x.png", QUESTION, "--url", stack.url), "status 422"),
        (
            ("ask", f"data:;base64,{base64.b64encode(MP4_HEAD).decode()}", QUESTION, "--url", stack.url),
            "(status 415); fovea ask takes a video as --video",
        ),
        (("ask", str(picture_file), QUESTION, "--url", f"{stack.url}/elsewhere"), "status 404"),
    ):
        done = fovea(*words)
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def lines_until_ready(process: subprocess.Popen[str]) -> list[str]:
    """Lines of `fovea up`, of which the last one says that it is ready."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("ready: "):
            break
    return lines


def test_up_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "fovea.toml"
    config.write_text(f'[up]\nlisten = "{url.removeprefix("http://")}"\n[gateway]\nmax_concurrent_requests = 7\n')
    with subprocess.Popen(
        [sys.executable, "-m", "fovea.cli", "up", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT, "XDG_STATE_HOME": str(tmp_path)},
    ) as process:
        lines = lines_until_ready(process)
        assert lines[-1].startswith(f"ready: {url}"), "".join(lines)
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 0, rest
    assert rest == "stopping\n"
    first, *stages, pruning, _ = lines
    assert pruning.startswith("a question that names no pruner keeps 11.1 % of an image's tokens, by desap; ")
    log = tmp_path / "fovea" / f"up-{url.rpartition(':')[2]}.log"
    assert first == f"starting fovea-lab; logs in {log}\n"
    assert {line.split("  ")[0] for line in stages} == {"gateway", "encoder service", "LLM service"}
    assert '\\"max_concurrent_requests\\": 7' in log.read_text()
    assert {json.loads(line)["service"] for line in log.read_text().splitlines()} == {"gateway", "encoder", "llm"}
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz", trust_env=False)


def test_up_over_tls_is_ready_at_its_https_address_again_after_a_restart(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("rest", "gateway.test")
    listen = f"localhost:{free_port()}"
    config = tmp_path / "fovea.toml"
    config.write_text(f'[gateway]\ntls_cert = "{files.cert}"\ntls_key = "{files.key}"\n')
    words = ["up", "--config", str(config), "--listen", listen, "--log-file", str(tmp_path / "log")]
    with subprocess.Popen(
        [sys.executable, "-m", "fovea.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    ) as process:
        lines = lines_until_ready(process)
        assert lines[-1].startswith(f"ready: https://{listen}   (https://{listen}/docs"), "".join(lines)
        assert "keeps 11.1 % of an image's tokens, by desap" in lines[-2]
        kill_llm_service(process)
        assert process.stderr.readline().startswith("LLM service ended by itself")
        assert process.stderr.readline() == "all services are ready again\n"
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_up_leaves_nobody_behind(number: signal.Signals) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [sys.executable, "-m", "fovea.cli", "up", "--listen", url.removeprefix("http://"), "--log-file", "-"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    ) as process:
        assert process.stderr
        assert any(line.startswith("ready: ") for line in process.stderr)
        process.send_signal(number)
        process.stderr.read()  # ends when the last service has closed it
        process.wait(timeout=60)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz", trust_env=False)


def test_up_does_not_take_another_gateway_for_its_own(stack: Stack) -> None:
    done = fovea("up", "--listen", stack.url.removeprefix("http://"), "--log-file", "-")
    assert done.returncode == 1
    assert "ready:" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_up_tells_which_service_could_not_start(tmp_path: Path) -> None:
    words = ["--listen", f"127.0.0.1:{free_port()}", "--log-file", str(tmp_path / "log")]
    done = fovea("up", "--model", str(tmp_path), *words)
    assert done.returncode == 1
    assert "it holds no config.json; supported are" in done.stderr.splitlines()[-1]
    assert "{" not in done.stderr


def test_up_tells_a_variable_that_no_service_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MAX_NUM_SEQS", "4")
    words = ["--listen", f"127.0.0.1:{free_port()}", "--log-file", str(tmp_path / "log")]
    _, second, *_ = fovea("up", "--model", str(tmp_path), *words).stderr.splitlines()
    assert second == "LLM_MAX_NUM_SEQS is not a setting and is ignored; use LLM_MAX_BATCH_SIZE=N"


def test_up_starts_nothing_without_its_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "none"
    done = fovea("up", "--keys-file", str(path), "--listen", f"127.0.0.1:{free_port()}", "--log-file", "-")
    assert done.returncode == 1
    assert done.stderr == f"fovea: there is no file of API keys at {path}; fovea keys add NAME --file {path} makes it\n"


def test_up_tells_once_that_redis_is_away_and_once_that_it_is_back() -> None:
    redis = RedisServer()
    words = ["up", "--listen", f"127.0.0.1:{free_port()}", "--redis-url", redis.url, "--log-file", os.devnull]
    with (
        redis,
        subprocess.Popen(
            [sys.executable, "-m", "fovea.cli", *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        ) as process,
    ):
        redis.stop()
        assert process.stderr
        assert any(line.startswith("ready: ") for line in process.stderr)
        assert next(process.stderr) == "Redis does not answer; nothing is cached until it does\n"
        redis.start()
        assert next(process.stderr) == "Redis answers again\n"
        redis.stop()
        assert next(process.stderr) == "Redis does not answer; nothing is cached until it does\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopping\n"
        assert process.wait(timeout=60) == 0


def test_no_folder_of_the_working_directory_hides_a_service(tmp_path: Path) -> None:
    for name in ("gateway", "encoder_service", "llm_service"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    words = ["up", "--model", str(tmp_path), "--listen", f"127.0.0.1:{free_port()}", "--log-file", "log"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fovea.cli", *words],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "it holds no config.json; supported are" in done.stderr.splitlines()[-1], done.stderr


def kill_llm_service(up: subprocess.Popen[str]) -> None:
    (service,) = (child for child in psutil.Process(up.pid).children() if "llm_service" in child.cmdline())
    service.kill()


@pytest.mark.parametrize("restart", [True, False])
def test_a_service_that_ends_is_started_again_or_ends_up(restart: bool, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    words = ["--listen", url.removeprefix("http://"), "--log-file", str(tmp_path / "log")]
    with subprocess.Popen(
        [sys.executable, "-m", "fovea.cli", "up", *words, *["--no-restart"] * (not restart)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    ) as process:
        assert process.stderr
        assert any(line.startswith("ready: ") for line in process.stderr)
        kill_llm_service(process)
        line = process.stderr.readline()
        if restart:
            assert line.startswith("LLM service ended by itself with signal SIGKILL")
            assert line.endswith("; starting it again in 1 s\n")
            assert process.stderr.readline() == "all services are ready again\n"
            assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
            process.send_signal(signal.SIGINT)
        else:
            assert line.startswith("fovea: LLM service ended by itself with signal SIGKILL")
        process.stderr.read()
        assert process.wait(timeout=60) == (0 if restart else 1)


def test_the_demo_is_right_about_its_picture_and_shows_two_prunings(tmp_path: Path) -> None:
    done = fovea("demo", "--overlay", str(tmp_path / "demo.png"), environment=RECOMMENDED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recommended: fovea" in done.stdout
    sides = [line.split("|") for line in done.stdout.splitlines() if "/144" in line]
    assert len(sides) == 6
    for recommended, desap in sides:
        assert "48/144" in recommended
        assert "WRONG" not in recommended
        assert "16/144" in desap
    described = [line for line in done.stdout.splitlines() if " tokens: " in line]
    assert [line.split(" tokens: ")[0].strip() for line in described] == [
        *("recommended, 48", "desap, 16", "unpruned, 144"),
    ]
    assert (tmp_path / "demo.png").is_file()


def test_the_probe_tells_health_by_its_exit_status(stack: Stack) -> None:
    def status(target: str) -> int:
        return subprocess.run([sys.executable, "-m", "fovea.rpc.probe", target], check=False).returncode

    for target in (stack.encoder_address, stack.llm_address, f"{stack.url}/healthz"):
        assert status(target) == 0
    assert status(f"127.0.0.1:{free_port()}") == 1
    assert status(f"http://127.0.0.1:{free_port()}/healthz") == 1
