"""deploy/edge/compose.yml, started: the box in one network, the LLM service in another, a narrow link between."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fovea.rpc.bearer_tokens import token_line
from tests.certificates import Authority
from tests.images.compose import Compose, compose_commands
from tests.images.conftest import ROOT
from tests.images.engine import TAG, Container, docker
from tests.images.gateway import MOON, Gateway
from tests.images.link import Link
from tests.waiting import wait_until

LLM = "llm.example.org"
MBIT_S = 1.0
OTHER_BYTES = 5000  # headers, acknowledgements, the question and the answer
RIGHTS = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")

pytestmark = pytest.mark.skipif(not shutil.which("tc"), reason="a link is narrowed by tc (iproute2)")


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of both ends, readable for the containers' user."""
    folder = tmp_path_factory.mktemp("credentials")
    folder.chmod(0o755)
    authority = Authority(folder)
    authority.issue("llm", LLM)
    authority.issue("box", "berlin.example.org")
    token = secrets.token_urlsafe(32)
    (folder / "token").write_text(f"{token}\n")
    (folder / "sites").write_text(f"{token_line('berlin', token)}\n")
    for file in folder.iterdir():
        file.chmod(0o444)
    return folder


@pytest.fixture(scope="module")
def cloud(credentials: Path) -> Iterator[Container]:
    """The LLM service in a network of its own."""
    network = f"fovea-cloud-{secrets.token_hex(4)}"
    docker("network", "create", network)
    settings = {
        "LLM_MODEL": "/app/lab/checkpoints/llava",
        "LLM_SERVED_MODEL_NAME": "fovea-lab",
        "LLM_LISTEN": "0.0.0.0:50052",
        "LLM_TLS_CERT": "/run/credentials/llm.pem",
        "LLM_TLS_KEY": "/run/credentials/llm.key",
        "LLM_TLS_CLIENT_CA": "/run/credentials/ca.pem",
        "LLM_TOKEN_FILE": "/run/credentials/sites",
    }
    variables = [f"--env={name}={value}" for name, value in settings.items()]
    volume = f"--volume={credentials}:/run/credentials:ro"
    command = ("run", "--detach", f"--network={network}", "--no-healthcheck", *RIGHTS, *variables, volume)
    container = Container(docker(*command, f"fovea-llm:{TAG}").stdout.strip())
    yield container
    docker("rm", "--force", container.id)
    docker("network", "rm", network, check=False)


@pytest.fixture(scope="module")
def box(credentials: Path) -> Iterator[Compose]:
    variables = {"LLM": f"{LLM}:50052", "CREDENTIALS": str(credentials)}
    with Compose(compose_commands()[-1], ROOT / "deploy" / "edge" / "compose.yml", environment=variables) as project:
        project.up()
        yield project


@pytest.fixture(scope="module")
def link(box: Compose, cloud: Container) -> Iterator[Link]:
    with Link(MBIT_S) as link:
        link.connect(cloud, LLM)
        link.connect(box.container("gateway"), "box")
        yield link
        link.disconnect(box.container("gateway"))
        link.disconnect(cloud)


@pytest.fixture
def gateway(box: Compose, link: Link) -> Gateway:
    gateway = Gateway(box.url, box.container("gateway").output("cat", "/secrets/default.key").strip())
    gateway.wait_until_ready()
    return gateway


def test_an_answer_crosses_the_narrow_link(gateway: Gateway, link: Link, cloud: Container) -> None:
    gateway.ask(MOON)  # connects
    before = link.bytes_at(cloud)
    answer = gateway.ask(MOON, cache="bypass")
    crossed = link.bytes_at(cloud) - before
    assert "pink" in answer["answer"].lower()
    assert answer["usage"]["wire_bytes"] < crossed < answer["usage"]["wire_bytes"] + OTHER_BYTES


def test_a_budget_of_bytes_is_kept_on_the_link(gateway: Gateway, link: Link, cloud: Container) -> None:
    gateway.ask(MOON)
    before = link.bytes_at(cloud)
    gateway.ask(MOON, cache="bypass", max_wire_bytes=1000)
    assert link.bytes_at(cloud) - before < 1000 + OTHER_BYTES


def test_nobody_reaches_the_llm_service_without_a_certificate(gateway: Gateway, box: Compose) -> None:
    probe = ["python", "-m", "fovea.rpc.probe", f"{LLM}:50052"]
    assert box.container("gateway").run(*probe).returncode == 1
    assert box.container("gateway").run(*probe, "--tls-ca", "/run/credentials/ca.pem").returncode == 1
    own = ["--tls-cert", "/run/credentials/box.pem", "--tls-key", "/run/credentials/box.key"]
    assert box.container("gateway").run(*probe, "--tls-ca", "/run/credentials/ca.pem", *own).returncode == 0


def test_the_box_answers_from_its_cache_while_the_link_is_cut(gateway: Gateway, link: Link, cloud: Container) -> None:
    expected = gateway.ask(MOON)["answer"]
    link.disconnect(cloud)
    try:
        answer = gateway.ask(MOON)
        assert (answer["answer"], answer["cache"]["answer"]) == (expected, "hit")
        assert gateway.post("What do you see?", timeout_s=3).status_code in (
            httpx.codes.SERVICE_UNAVAILABLE,
            httpx.codes.GATEWAY_TIMEOUT,
        )
    finally:
        link.connect(cloud, LLM)
    wait_until(lambda: gateway.post("What do you see?").status_code == httpx.codes.OK, 120)
