"""Pods of deploy/kustomize as containers: the rights, variables, volumes and probes of their manifests."""

from __future__ import annotations

import base64
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from fovea.rpc.probe import healthy
from tests.images.engine import TAG, Container, docker
from tests.unit.deploy.kubernetes.manifests import Manifests

__all__ = ["Pod", "running"]


class Pod:
    """The container of a Deployment.

    Attributes:
        container: the container.
        address: its address in the network.
    """

    def __init__(self, manifests: Manifests, name: str, network: str, folder: Path, redis_image: str) -> None:
        self._spec = manifests.container(name)
        pod = manifests.pods[name]["spec"]
        flags = [*_rights(pod, self._spec), *_mounts(manifests, pod, self._spec, folder)]
        flags += [f"--env={key}={value}" for key, value in manifests.environment(name).items()]
        image = self._spec["image"]
        own = re.fullmatch(r"(fovea-[a-z]+):.*", image)
        command = [*self._spec.get("command", ()), *self._spec.get("args", ())]
        self.container = Container(
            docker(
                *("run", "--detach", f"--network={network}", f"--network-alias={name}", *flags),
                f"{own[1]}:{TAG}" if own else redis_image,
                *command,
            ).stdout.strip()
        )
        self.address = self.container.inspect()["NetworkSettings"]["Networks"][network]["IPAddress"]

    def passes(self, probe: str) -> bool:
        """Whether the kubelet would find that a probe of the manifest passes."""
        found = self._spec[probe]
        if http := found.get("httpGet"):
            try:
                url = f"http://{self.address}:{self._port(http['port'])}{http['path']}"
                return httpx.get(url, trust_env=False).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False
        if grpc := found.get("grpc"):
            return healthy(f"{self.address}:{grpc['port']}")
        if tcp := found.get("tcpSocket"):
            with socket.socket() as connection:
                return connection.connect_ex((self.address, self._port(tcp["port"]))) == 0
        return self.container.run(*found["exec"]["command"]).returncode == 0

    @property
    def probes(self) -> list[str]:
        return [name for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in self._spec]

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self._spec["ports"]}

    def _port(self, port: str | int) -> int:
        return self.ports[port] if isinstance(port, str) else port


def _rights(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    security, own = pod["securityContext"], container["securityContext"]
    flags = [f"--user={security['runAsUser']}:{security['runAsGroup']}", f"--group-add={security['fsGroup']}"]
    flags += [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]
    flags += ["--read-only"] if own["readOnlyRootFilesystem"] else []
    flags += [] if own["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges:true"]
    memory = container["resources"]["limits"]["memory"]
    return [*flags, f"--memory={memory.removesuffix('i').lower()}"]


def _mounts(manifests: Manifests, pod: dict[str, Any], container: dict[str, Any], folder: Path) -> list[str]:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    flags = []
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            flags.append(f"--tmpfs={mount['mountPath']}:exec,mode=1777")
        else:
            secret = volume["secret"]
            source = _secret(manifests, secret, folder, group=pod["securityContext"]["fsGroup"])
            flags.append(f"--volume={source}:{mount['mountPath']}:ro")
    return flags


def _secret(manifests: Manifests, secret: dict[str, Any], folder: Path, group: int) -> Path:
    """Folder with the files of a Secret, readable for the pod's group alone."""
    (data,) = [one["data"] for name, one in manifests.of("Secret").items() if name.startswith(secret["secretName"])]
    target = folder / secret["secretName"]
    target.mkdir(exist_ok=True)
    target.chmod(0o755)
    for name, value in data.items():
        file = target / name
        file.write_bytes(base64.b64decode(value))
        file.chmod(secret["defaultMode"])
        os.chown(file, -1, group)
    return target


@contextmanager
def running(manifests: Manifests, names: list[str], folder: Path, redis_image: str) -> Iterator[dict[str, Pod]]:
    """The pods of these Deployments in a network of their own, where each has the name of its Service."""
    network = f"fovea-test-{secrets.token_hex(4)}"
    pods: dict[str, Pod] = {}
    docker("network", "create", network)
    try:
        for name in names:
            pods[name] = Pod(manifests, name, network, folder, redis_image)
        yield pods
    finally:
        for pod in pods.values():
            docker("rm", "--force", pod.container.id)
        docker("network", "rm", network, check=False)
