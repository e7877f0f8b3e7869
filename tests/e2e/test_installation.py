"""Fovea's wheel in environments with the packages of some extras alone: what `pip install 'fovea[...]'` gives."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.checkpoints.tiny import clip, video_llava
from benchmarks.checkpoints.tiny.clips import clip_file, clip_frames
from fovea.processes.stack import SERVICES, Stack, free_port
from tests.documented import ROOT
from tests.e2e.conftest import STARTUP_S, data_url
from tests.installations import Installation, build_editable_wheel, build_wheel, copy_source, install
from tests.lab_stack import ENVIRONMENT

SHIPPED = ("gateway/http/page/", "lab/checkpoints/", "lab/demo/")
EXTRAS = {"encoder_service": "encoder", "llm_service": "llm", "gateway": "gateway"}
MAKE_DEMO = re.search(r"^\$\(SERVICES_STAMP\): EXTRAS = (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split(",")

Install = Callable[..., Installation]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Function from extras to an installation with them, each made once."""
    made: dict[tuple[str, ...], Installation] = {}

    def installation(*extras: str) -> Installation:
        if extras not in made:
            made[extras] = install(tmp_path_factory.mktemp("installation"), wheel, extras)
        return made[extras]

    return installation


class InstalledStack(Stack):
    """The three services, each in an installation of its own."""

    installations: dict[str, Installation]

    def command(self, service: str) -> list[str]:
        return [str(self.installations[service].python), *super().command(service)[1:]]


def stack(log: Path, installations: dict[str, Installation], model: Path, text_tower: Path) -> InstalledStack:
    stack = InstalledStack(str(model), str(text_tower), listen=f"127.0.0.1:{free_port()}", log_to=log)
    stack.installations = installations
    stack.environment = {**installations["gateway"].environment, **ENVIRONMENT}
    return stack


def test_the_wheel_has_all_that_the_services_read(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    tracked = {path.relative_to(ROOT).as_posix() for part in SHIPPED for path in (ROOT / part).rglob("*.*")}
    assert len(tracked) > 50
    assert not tracked - names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_each_service_runs_with_its_extra_and_is_asked_without_any(installed: Install, tmp_path: Path) -> None:
    services = {service: installed(extra) for service, extra in EXTRAS.items()}
    lab = services["gateway"].site / "lab"
    with stack(tmp_path / "log", services, lab / "checkpoints/llava", lab / "checkpoints/clip") as running:
        running.wait_ready(STARTUP_S)
        words = ["ask", str(ROOT / "lab/demo/demo.png"), "What color is the moon?", "--url", running.url]
        answer = installed().fovea(*words)
        page = httpx.get(running.url, trust_env=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip().lower().startswith("pink")
    assert page.status_code == httpx.codes.OK


def test_the_demo_runs_with_what_make_demo_installs(installed: Install) -> None:
    done = installed(*MAKE_DEMO).fovea("demo", **ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What color is the moon?" in done.stdout


def test_a_clone_named_fovea_does_not_hide_its_packages_in_the_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = build_editable_wheel(tmp_path, copy_source(tmp_path / "fovea"))
    editable = install(tmp_path / "environment", wheel, ["gateway"])
    monkeypatch.chdir(tmp_path)
    for words in (["-m", "gateway", "--help"], ["-c", "from fovea import Client"]):
        done = editable.run(*words, PYTHONSAFEPATH="")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_without_its_extra_ends_with_one_sentence(service: str, installed: Install) -> None:
    done = installed().run("-m", service, "--model", "m", "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert re.fullmatch(
        rf"python -m {service}: the package \w+ is missing: pip install 'fovea\[{EXTRAS[service]}\]'", line
    )


def test_the_command_helps_and_advises_without_any_extra(installed: Install) -> None:
    alone = installed()
    assert "commands" in alone.fovea("--help").stdout
    done = alone.fovea("doctor", "--listen", f"127.0.0.1:{free_port()}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    missing = {finding["subject"]: finding for finding in findings if finding["text"].startswith("not installed here")}
    assert set(missing) == set(EXTRAS.values())
    for extra, finding in missing.items():
        assert finding["level"] == "warning"
        assert f"pip install 'fovea[{extra}]'" in finding["advice"]
    assert ("checkpoint", "ok") in {(finding["subject"], finding["level"]) for finding in findings}


def test_up_names_the_extra_of_a_service_that_does_not_start(installed: Install, tmp_path: Path) -> None:
    words = ["up", "--listen", f"127.0.0.1:{free_port()}", "--log-file", str(tmp_path / "log")]
    done = installed("gateway").fovea(*words)
    assert done.returncode == 1
    assert re.search(r"service ended by itself .* is missing: pip install 'fovea\[(encoder|llm)\]'$", done.stderr, re.M)


def test_quantization_without_its_extra_names_it(installed: Install) -> None:
    llm = installed("llm")
    model = llm.site / "lab/checkpoints/llava"
    words = ["--model", str(model), "--quantization", "nf4", "--device", "cpu", "--listen", "127.0.0.1:0"]
    done = llm.run("-m", "llm_service", *words, **ENVIRONMENT)
    assert done.returncode == 1
    assert "pip install 'fovea[quantization]'" in json.loads(done.stderr.splitlines()[-1])["message"]


@pytest.fixture(scope="module")
def without_pyav(installed: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledStack]:
    """Services of a family with videos, without the extra for video files."""
    root = tmp_path_factory.mktemp("without-pyav")
    services = dict.fromkeys(SERVICES, installed(*MAKE_DEMO))
    model, tower = video_llava.write(root / "model"), clip.write(root / "clip")
    with stack(root / "log", services, model, tower) as running:
        running.wait_ready(STARTUP_S)
        yield running


def post(running: Stack, **video: object) -> httpx.Response:
    body = {"question": "What happens?", "max_tokens": 2, **video}
    return httpx.post(f"{running.url}/v1/answer", json=body, timeout=60, trust_env=False)


def test_a_video_file_is_refused_with_the_extra_that_decodes_it(without_pyav: InstalledStack) -> None:
    response = post(without_pyav, video=data_url(clip_file(12)).replace("image/png", "video/mp4"))
    assert response.status_code == httpx.codes.UNSUPPORTED_MEDIA_TYPE
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_media", "video")
    assert "pip install 'fovea[video]' and restart the encoder service" in error["message"]
    assert "accepted: the frames of a video as images" in error["message"]


def test_frames_of_a_video_are_answered_without_the_extra(without_pyav: InstalledStack) -> None:
    frames = []
    for frame in clip_frames(3):
        file = io.BytesIO()
        frame.save(file, "PNG")
        frames.append(data_url(file.getvalue()))
    response = post(without_pyav, video=frames)
    assert response.status_code == httpx.codes.OK, response.text


def test_the_log_and_the_doctor_tell_that_video_files_are_refused(
    without_pyav: InstalledStack, installed: Install
) -> None:
    warnings = [json.loads(line) for line in without_pyav.log_to.read_text().splitlines() if '"warning"' in line]
    assert any("pip install 'fovea[video]'" in warning["message"] for warning in warnings)
    done = installed(*MAKE_DEMO).fovea("doctor", "--json")
    (finding,) = [finding for finding in json.loads(done.stdout) if finding["subject"] == "video"]
    assert finding["level"] == "warning"
    assert "pip install 'fovea[video]'" in finding["advice"]
    assert "restart the encoder service" in finding["advice"]
