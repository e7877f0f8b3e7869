from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fovea.checkpoints import fingerprint, public_name, resolve


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


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="weights"):
        fingerprint(tmp_path)


def test_a_directory_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), files=["*.json"]) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "nothing"])
def test_a_missing_directory_is_not_taken_for_a_hub_id(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint directory"):
        resolve(name, files=["*.json"])


def test_a_hub_id_that_cannot_be_fetched_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="could not be fetched from the hub"):
        resolve("nobody/such-a-model-does-not-exist", files=["*.json"])


def test_a_hub_id_is_its_own_name_and_a_directory_shows_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"
    for written in ("models/mine", "./models/mine/", str(tmp_path / "models" / "mine")):
        assert public_name(written) == "mine"
