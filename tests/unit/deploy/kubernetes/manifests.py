"""Manifests of deploy/kustomize: the base from its files, and the overlays as kustomize renders them."""

from __future__ import annotations

import base64
import functools
import importlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = ["BUNDLES", "KUSTOMIZE", "OVERLAYS", "SERVICES", "WITH_GATEWAY", "Manifests", "Service", "load"]

KUSTOMIZE = Path(__file__).parents[4] / "deploy" / "kustomize"
OVERLAYS = ("cpu", "gpu", "tls", "edge")
BUNDLES = ("base", *OVERLAYS)
WITH_GATEWAY = tuple(bundle for bundle in BUNDLES if bundle != "edge")

Document = dict[str, Any]


@dataclass(frozen=True)
class Service:
    """One of our services: Python package, settings class and name in its health service."""

    package: str
    settings_class: str
    health: str = ""

    @property
    def settings(self) -> Any:
        return getattr(importlib.import_module(f"{self.package}.settings"), self.settings_class)


SERVICES = {
    "encoder": Service("encoder_service", "EncoderSettings", "fovea.v1.EncoderService"),
    "llm": Service("llm_service", "LLMSettings", "fovea.v1.LLMService"),
    "gateway": Service("gateway", "GatewaySettings"),
}


@dataclass(frozen=True)
class Manifests:
    documents: list[Document]

    def of(self, kind: str) -> dict[str, Document]:
        return {one["metadata"]["name"]: one for one in self.documents if one["kind"] == kind}

    @property
    def ours(self) -> list[str]:
        """Our services in the bundle."""
        return [name for name in self.of("Deployment") if name in SERVICES]

    @property
    def pods(self) -> dict[str, Document]:
        """Pod templates, by the name of their Deployment, StatefulSet or Job."""
        return {name: one["spec"]["template"] for kind in ("Deployment", "Job") for name, one in self.of(kind).items()}

    def container(self, name: str) -> Document:
        (container,) = self.pods[name]["spec"]["containers"]
        return dict(container)

    def environment(self, name: str) -> dict[str, str]:
        """Environment of the container; its own variables override those of its ConfigMaps."""
        container = self.container(name)
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.of("ConfigMap")[source["configMapRef"]["name"]]["data"]
        return found | {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}

    def settings(self, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Settings of the service, read from that environment."""
        for variable, value in self.environment(name).items():
            monkeypatch.setenv(variable, value)
        return SERVICES[name].settings.from_command_line([])

    def replicas(self, name: str) -> int:
        """Least number of pods."""
        scaler = self.of("HorizontalPodAutoscaler").get(name)
        number = scaler["spec"]["minReplicas"] if scaler else self.of("Deployment")[name]["spec"]["replicas"]
        return int(number)


def load(bundle: str) -> Manifests:
    """`base`, an overlay, or another folder of deploy/kustomize."""
    if bundle == "base":
        return Manifests(_raw(KUSTOMIZE / "base"))
    return Manifests(render(f"overlays/{bundle}" if bundle in OVERLAYS else bundle))


def _raw(folder: Path) -> list[Document]:
    paths = sorted(path for path in folder.rglob("*.yaml") if path.name != "kustomization.yaml")
    documents = [one for path in paths for one in yaml.safe_load_all(path.read_text())]
    return documents + [_config_map(path) for path in sorted(folder.rglob("*.env"))] + [_keys(folder)]


def _keys(folder: Path) -> Document:
    data = base64.b64encode((folder / "gateway" / "keys").read_bytes()).decode()
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gateway-keys"}, "data": {"keys": data}}


def _config_map(path: Path) -> Document:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    data = dict(line.split("=", 1) for line in lines)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": path.stem}, "data": data}


@functools.cache
def render(folder: str) -> list[Document]:
    """Documents that `kubectl apply -k` would send; skips the test without kubectl and kustomize."""
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        pytest.skip("rendering an overlay takes kubectl or kustomize; neither is on the path, nor to be had from PyPI")
    done = subprocess.run([*command, str(KUSTOMIZE / folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
