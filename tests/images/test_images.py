"""The images by themselves: their size, their layers and their user."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.images.engine import TAG, docker, image

BASE: Final = os.environ.get("BASE_IMAGE", "")
SERVICES: Final = ("gateway", "encoder", "llm")
MAX_GATEWAY_BYTES: Final = 120_000_000
MAX_OWN_BYTES: Final = 150_000_000


def inside(service: str, *command: str) -> str:
    """Standard output of a command in a container of the image."""
    return docker(
        "run", "--rm", "--network=none", f"--entrypoint={command[0]}", f"fovea-{service}:{TAG}", *command[1:]
    ).stdout


def test_the_gateway_is_small() -> None:
    own = image(f"fovea-gateway:{TAG}")["Size"] - image(BASE)["Size"]
    assert own < MAX_GATEWAY_BYTES, f"{own / 1e6:.0f} MB on its base"


def test_encoder_and_llm_service_share_the_layer_with_torch() -> None:
    encoder, llm = (image(f"fovea-{service}:{TAG}") for service in ("encoder", "llm"))
    shared = [layer for layer in encoder["RootFS"]["Layers"] if layer in llm["RootFS"]["Layers"]]
    assert len(shared) > len(image(BASE)["RootFS"]["Layers"])
    for service in ("encoder", "llm"):
        history = docker(
            "history", "--no-trunc", "--human=false", "--format={{.Size}}", f"fovea-{service}:{TAG}"
        ).stdout
        sizes = [int(size) for size in history.split()]
        common = len(image(BASE)["RootFS"]["Layers"]) + 1
        assert max(sizes) > MAX_OWN_BYTES, "the shared layer holds torch"
        own = sum(sizes) - sum(sorted(sizes, reverse=True)[:common])
        assert own < MAX_OWN_BYTES, f"fovea-{service} adds {own / 1e6:.0f} MB to what is shared"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_neither_a_compiler_nor_pip_nor_tests(service: str) -> None:
    found = inside(
        service, "find", "/opt", "/app", "-name", "gcc*", "-o", "-name", "pip", "-o", "-path", "*/numpy/*/tests"
    )
    assert found == ""


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_its_own_service_and_no_other(service: str) -> None:
    packages = {"gateway": "gateway", "encoder": "encoder_service", "llm": "llm_service"}
    found = set(inside(service, "ls", "/app").split())
    assert packages[service] in found
    assert not found & (set(packages.values()) - {packages[service]})


@pytest.mark.parametrize("service", ["encoder", "llm"])
def test_services_that_code_visual_tokens_have_the_library_in_c(service: str) -> None:
    program = "from fovea.wire import rans; print(rans.coder_name())"
    assert inside(service, "python", "-c", program) == "native\n"


def test_the_command_is_in_the_images() -> None:
    assert "chat" in inside("gateway", "fovea", "--help")
