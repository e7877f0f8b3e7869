"""The overlays with TLS: services, probes and gateway connect, with the files of the mounted secrets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fovea.rpc import probe
from fovea.rpc.bearer_tokens import token_line
from fovea.rpc.channel import Access
from fovea.rpc.server import GrpcServer, ServerConfig
from gateway.clients.encoder import EncoderClient
from gateway.clients.llm import LLMClient
from tests.certificates import Authority
from tests.unit.deploy.kubernetes.manifests import OVERLAYS, SERVICES, Manifests, load

CLIENTS: dict[str, Callable[..., Any]] = {"encoder": EncoderClient, "llm": LLMClient}
ENCRYPTED = [("tls", "encoder"), ("tls", "llm"), ("edge", "llm")]
TIMEOUT_S = 20.0


class Secrets:
    """Secrets that a bundle's pods mount, each in a folder that replaces its mount."""

    def __init__(self, manifests: Manifests, folder: Path) -> None:
        self._manifests = manifests
        self._folder = folder
        self._authority = Authority(folder)

    def fill(self, pod: str, *identities: str) -> None:
        files = self._authority.issue(pod, *identities)
        place = self._place(pod, "/run/tls")
        place.mkdir()
        for name, source in {"tls.crt": files.cert, "tls.key": files.key, "ca.crt": self._authority.ca}.items():
            (place / name).write_bytes(Path(source).read_bytes())
        if any(mount["name"] == "sites" for mount in self._manifests.container(pod)["volumeMounts"]):
            self._place(pod, "/run/sites").mkdir()
            (self._place(pod, "/run/sites") / "sites").write_text(token_line("berlin", "t" * 32))

    def _place(self, pod: str, path: str) -> Path:
        return self._folder / f"{pod}{path.replace('/', '-')}"

    def at(self, pod: str, text: str) -> str:
        """`text` with the paths of these folders instead of the mounts."""
        return re.sub(r"/run/(tls|sites)(?=/)", lambda match: str(self._place(pod, match[0])), text)


def settings_of(manifests: Manifests, secrets: Secrets, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable, value in manifests.environment(name).items():
        monkeypatch.setenv(variable, secrets.at(name, value))
    return SERVICES[name].settings.from_command_line([])


@asynccontextmanager
async def serving(settings: Any, health: str) -> AsyncIterator[int]:
    """A server as `__main__` makes it, without a model; yields its port."""
    server = GrpcServer(
        ServerConfig(
            "127.0.0.1:0",
            max_message_bytes=settings.max_message_bytes,
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
            tls=settings.tls,
            token_file=settings.token_file,
        ),
        services=[health],
    )
    await server.start()
    await server.ready()
    try:
        yield server.port
    finally:
        await server.drain(0)


@pytest.mark.parametrize(("overlay", "name"), ENCRYPTED)
async def test_the_probes_of_a_service_with_tls_find_it_healthy(
    overlay: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = load(overlay)
    secrets = Secrets(manifests, tmp_path)
    secrets.fill(name, name)
    settings = settings_of(manifests, secrets, name, monkeypatch)
    assert settings.tls_client_ca
    container = manifests.container(name)
    async with serving(settings, SERVICES[name].health) as port:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            python, flag, module, *words = container[kind]["exec"]["command"]
            assert (python, flag, module) == ("python", "-m", "fovea.rpc.probe")
            argv = [secrets.at(name, word) for word in words[:-1]] + [f"127.0.0.1:{port}"]
            assert await asyncio.to_thread(probe.main, argv) == 0
            assert await asyncio.to_thread(probe.main, argv[-1:]) == 1, "without a certificate nobody is let in"


@pytest.mark.parametrize("name", ["encoder", "llm"])
async def test_the_gateway_trusts_the_service_at_the_name_that_it_calls(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = load("tls")
    secrets = Secrets(manifests, tmp_path)
    (issued,) = [one["spec"] for one in load("certificates").documents if one["metadata"]["name"] == name]
    secrets.fill(name, *issued["dnsNames"])
    secrets.fill("gateway", "gateway")
    gateway = settings_of(manifests, secrets, "gateway", monkeypatch)
    host = getattr(gateway, name).removeprefix("dns:///").rpartition(":")[0]
    access = Access.from_files(
        ca=getattr(gateway, f"{name}_tls_ca"),
        cert=getattr(gateway, f"{name}_tls_cert"),
        key=getattr(gateway, f"{name}_tls_key"),
        server_name=getattr(gateway, f"{name}_server_name") or host,  # in this test the pod's only name is loopback
    )
    async with serving(settings_of(manifests, secrets, name, monkeypatch), SERVICES[name].health) as port:
        client = CLIENTS[name](f"127.0.0.1:{port}", max_message_bytes=2**20, access=access)
        assert await client.serving(TIMEOUT_S)
        await client.close()


def test_the_mounted_secrets_are_those_that_cert_manager_fills() -> None:
    certificates = [one["spec"] for one in load("certificates").documents if one["kind"] == "Certificate"]
    issued = {one["secretName"] for one in certificates}
    for name in ("encoder", "llm", "gateway"):
        (volume,) = [one for one in load("tls").pods[name]["spec"]["volumes"] if one["name"] == "tls"]
        assert volume["secret"]["secretName"] in issued
        (mount,) = [one for one in load("tls").container(name)["volumeMounts"] if one["name"] == "tls"]
        assert "subPath" not in mount, "a file that is mounted by itself is not renewed"


def test_only_sites_with_a_certificate_and_a_token_are_let_in_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = load("edge")
    assert manifests.ours == ["llm"]
    settings = manifests.settings("llm", monkeypatch)
    assert settings.tls_client_ca
    assert settings.token_file
    assert manifests.of("Service")["llm"]["spec"]["type"] == "LoadBalancer"


def test_nothing_else_is_open_to_the_outside() -> None:
    services = [one for overlay in OVERLAYS for one in load(overlay).of("Service").items()]
    assert {name for name, one in services if one["spec"].get("type", "ClusterIP") != "ClusterIP"} == {"llm"}
