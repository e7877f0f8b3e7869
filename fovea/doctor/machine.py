"""Checks of this machine: versions, entropy coder, GPU and checkpoint."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from huggingface_hub import try_to_load_from_cache
from packaging.requirements import Requirement

from fovea.checkpoints import fingerprint, local_directory
from fovea.checkpoints.layouts import UnsupportedCheckpoint, check_weights_file, checked_family
from fovea.checkpoints.shipped import NotInstalled, shipped_checkpoint
from fovea.checkpoints.text_towers import DEFAULT_TEXT_TOWERS
from fovea.doctor.finding import Finding, Level
from fovea.processes.extras import install_command

__all__ = ["checkpoint", "entropy_coder", "gpu", "unmet", "versions", "video"]

_SERVICES: Final = ("gateway", "encoder", "llm")
_TIMEOUT_S: Final = 60
_NVIDIA_SMI: Final = ("--query-gpu=name,memory.free,memory.total,driver_version", "--format=csv,noheader")
_ASK_TORCH: Final = "import torch; print(torch.__version__, torch.cuda.is_available())"


def versions() -> Iterator[Finding]:
    """Finding for each service: whether the packages that it needs are installed in versions that fit.

    A service with a missing package is none of this machine's, which may have a gateway alone, or ask one.
    """
    installed = f"fovea {importlib.metadata.version('fovea')}, Python {platform.python_version()}"
    for service in _SERVICES:
        missing, unfit = _unmet(service)
        if missing:
            advice = f"to run it here, or fovea up: {_install_advice(service)}"
            yield Finding(service, Level.WARNING, f"not installed here: {'; '.join(missing)}", advice)
        elif unfit:
            yield Finding(service, Level.PROBLEM, "; ".join(unfit), _install_advice(service))
        else:
            yield Finding(service, Level.OK, f"packages fit ({installed})")


def video() -> Finding:
    """Whether the encoder service can decode video files, for which it needs an extra."""
    missing, unfit = _unmet("video")
    if missing or unfit:
        text = (
            f"{'; '.join(missing + unfit)}: video files are refused; images, and videos as lists of frames, are served"
        )
        return Finding("video", Level.WARNING, text, f"{_install_advice('video')}, and restart the encoder service")
    return Finding("video", Level.OK, "video files can be decoded")


def _unmet(extra: str) -> tuple[list[str], list[str]]:
    """Texts about the packages of an extra that are missing, and about those whose versions do not fit."""
    missing: list[str] = []
    unfit: list[str] = []
    for requirement in map(Requirement, importlib.metadata.requires("fovea") or ()):
        if text := unmet(requirement, extra):
            (missing if _installed_version(requirement) is None else unfit).append(text)
    return missing, unfit


def _install_advice(extra: str) -> str:
    return f"{install_command(extra)} in the environment of {sys.executable}"


def unmet(requirement: Requirement, extra: str) -> str:
    """What is wrong with a package that an extra needs; empty for nothing, or for a package that it does not need."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return ""
    version = _installed_version(requirement)
    if version is None:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} does not fit {requirement.specifier}"


def _installed_version(requirement: Requirement) -> str | None:
    try:
        return importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def entropy_coder() -> Finding:
    """Coder of the wire format `basis` that this installation uses."""
    try:
        from fovea.wire import rans
    except ModuleNotFoundError:
        return Finding("rANS", Level.OK, "not needed: without numpy, no service here codes visual tokens")
    if rans.coder_name() == "native":
        return Finding("rANS", Level.OK, "the wire format basis is coded by the library in C")
    advice = "install a C compiler, then fovea again; the bytes are the same either way"
    return Finding("rANS", Level.WARNING, "the library in C is not there; numpy codes the wire format basis", advice)


def gpu() -> Finding:
    """GPUs of this machine, and whether torch can use them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        advice = "enough for the shipped model; large checkpoints are slow without a GPU"
        return Finding("GPU", Level.OK, "none (no nvidia-smi); the services compute on the CPU", advice)
    shown = _output([program, *_NVIDIA_SMI])
    if not shown:
        advice = "run nvidia-smi; it tells what is wrong with the driver"
        return Finding("GPU", Level.WARNING, "nvidia-smi fails; the services compute on the CPU", advice)
    name, free, total, driver = (part.strip() for part in shown.splitlines()[0].split(",", 3))
    count = len(shown.splitlines())
    text = f"{f'{count} x ' * (count > 1)}{name}, {free} free of {total}, driver {driver}"
    torch = _output([sys.executable, "-c", _ASK_TORCH]).split()
    if len(torch) != 2:
        return Finding("GPU", Level.WARNING, f"{text}; torch cannot be imported", install_command("encoder,llm"))
    if torch[1] != "True":
        advice = "install a torch built for the driver's CUDA: https://pytorch.org/get-started/locally"
        return Finding("GPU", Level.WARNING, f"{text}, but torch {torch[0]} cannot use it", advice)
    return Finding("GPU", Level.OK, f"{text}, torch {torch[0]}")


def _output(command: list[str]) -> str:
    """Standard output of a command; empty where it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def checkpoint(model: str | None) -> Finding:
    """Whether a checkpoint is on this machine and can be served. Nothing is downloaded.

    Args:
        model: directory or hub id; None for the shipped small model.
    """
    try:
        path = shipped_checkpoint("llava") if model is None else _local(model)
    except NotInstalled as error:
        return Finding("checkpoint", Level.PROBLEM, str(error), "install the package lab, or use --model")
    except FileNotFoundError as error:
        advice = "check the spelling; --model takes a folder, or the name of a model on the hub, OWNER/NAME"
        return Finding("checkpoint", Level.PROBLEM, str(error), advice)
    if path is None:
        text = f"{model!r} is not a folder, and not in the cache of the hub"
        advice = "fovea up fetches a hub id when it starts; check the spelling, and that the hub can be reached"
        return Finding("checkpoint", Level.WARNING, text, advice)
    try:
        family = checked_family(path)
        if family not in DEFAULT_TEXT_TOWERS:
            raise UnsupportedCheckpoint(path.name, f"it is of the family {family}")
        check_weights_file(path)
        digest = fingerprint(path)
    except (UnsupportedCheckpoint, OSError) as error:
        return Finding("checkpoint", Level.PROBLEM, str(error), "name a checkpoint that is supported with --model")
    return Finding("checkpoint", Level.OK, f"{model or 'the shipped small model'}: {family}, fingerprint {digest}")


def _local(model: str) -> Path | None:
    """Folder of a checkpoint, also in the hub's cache; None where it is not on this machine.

    Raises:
        FileNotFoundError: The name is that of no folder, and cannot be that of a model on the hub.
    """
    path = local_directory(model)
    if path is not None:
        return path
    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:  # not the form of a hub id
        return None
    return Path(found).parent if isinstance(found, str) else None
