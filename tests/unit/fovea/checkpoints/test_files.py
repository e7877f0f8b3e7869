import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fovea.checkpoints import fingerprint, public_name, resolve
from tests.documented import ROOT
from tests.local_http_server import LocalHttpServer


def checkpoint(folder: Path, seed: int = 0, config: str = "{}") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    weights = np.random.default_rng(seed).standard_normal((300, 400)).astype(np.float32)
    save_file({"weight": weights}, folder / "model.safetensors")
    return folder


def test_the_same_checkpoint_has_the_same_fingerprint_wherever_it_lies(tmp_path: Path) -> None:
    assert fingerprint(checkpoint(tmp_path / "a")) == fingerprint(checkpoint(tmp_path / "b"))


def test_other_weights_or_another_config_have_another_fingerprint(tmp_path: Path) -> None:
    base = fingerprint(checkpoint(tmp_path / "a"))
    assert fingerprint(checkpoint(tmp_path / "b", seed=1)) != base
    assert fingerprint(checkpoint(tmp_path / "c", config='{"a": 1}')) != base


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_file_that_changes_answers_changes_the_fingerprint(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "a")
    seen = {fingerprint(folder)}
    for text in ("{}", '{"eos_token_id": 3}'):
        (folder / name).write_text(text)
        seen.add(fingerprint(folder))
    assert len(seen) == 3


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no weights file \(\*\.safetensors"):
        fingerprint(tmp_path)


def test_a_directory_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), files=["*.json"]) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "../nothing", "nothing", "~nobody-of-this-name/x"])
def test_a_missing_directory_is_not_taken_for_a_hub_id(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint directory"):
        resolve(name, files=["*.json"])


def test_a_hub_id_that_cannot_be_fetched_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="could not be fetched from the hub: HF_HUB_OFFLINE is set"):
        resolve("nobody/such-a-model-does-not-exist", files=["*.json"])
    with pytest.raises(FileNotFoundError, match="could not be fetched from the hub: it is not the name of a model"):
        resolve("nobody/such a model", files=["*.json"])


class Hub(BaseHTTPRequestHandler):
    """A hub that refuses each request with one status and code."""

    status, code = 404, ""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (401, "RepoNotFound", "there is no such model, or only with a token in HF_TOKEN"),
        (403, "GatedRepo", "its owner grants access there, and HF_TOKEN must have a token"),
        (404, "RevisionNotFound", "the model has no such revision"),
        (503, "", "it cannot be reached, and this machine's cache has no copy"),
    ],
)
def test_why_the_hub_gives_no_checkpoint_is_said(status: int, code: str, reason: str, tmp_path: Path) -> None:
    program = "from fovea.checkpoints import resolve; resolve('owner/model', files=['*.json'])"
    with LocalHttpServer(type("Refusing", (Hub,), {"status": status, "code": code})) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
    assert f"could not be fetched from the hub: {reason}" in done.stderr


def test_a_hub_id_is_its_own_name_and_a_directory_shows_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"
    for written in ("models/mine", "./models/mine/", str(tmp_path / "models" / "mine")):
        assert public_name(written) == "mine"
