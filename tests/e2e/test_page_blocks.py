"""The shell and Python blocks of all pages work, word for word, with the shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from docsite.repository_files import PAGES
from fovea.processes.stack import Stack
from tests.documented import ROOT
from tests.pages import Block, blocks, run

_KINDS: Final = ("bash", "sh", "python")

_DOCKER = "it needs Docker; tests/unit/deploy/test_containers.py compares it with the compose file"
_INSTALLS = "it installs on the machine as root"
_CLUSTER = "it needs a cluster; tests/unit/deploy/kubernetes has the manifests"
_WEIGHTS = "it needs weights of the hub"
_COMMANDS = "tests/e2e/test_documented_commands.py runs its commands in a short form"

# Page and first line of each block that is not run here, and why.
NOT_RUN: Final = {
    (
        "CONTRIBUTING.md",
        "make install   # .venv with everything; a torch that the machine's Python has is used",
    ): _COMMANDS,
    ("README.md", "fovea up --model Qwen/Qwen3-VL-8B-Instruct"): _WEIGHTS,
    ("README.md", "make demo"): _COMMANDS,
    ("docs/containers.md", "docker compose up --build --detach"): _DOCKER,
    ("docs/containers.md", "docker compose up --detach --scale encoder=2 --scale llm=2"): _DOCKER,
    (
        "docs/containers.md",
        "export MODEL=Qwen/Qwen2.5-VL-7B-Instruct TEXT_TOWER= SERVED_MODEL_NAME=qwen2.5-vl-7b",
    ): _WEIGHTS,
    (
        "docs/containers.md",
        "CUDA=cu130 docker compose -f docker-compose.yml -f deploy/gpu/compose.yml up --build --detach",
    ): _DOCKER,
    (
        "docs/containers.md",
        "docker compose -f docker-compose.yml -f deploy/gpu/compose.yml -f deploy/gpu/vllm.compose.yml"
        " up --build --detach",
    ): _DOCKER,
    ("docs/install.md", "cd fovea   # the clone"): f"{_INSTALLS}; tests/e2e/test_installation.py does so",
    ("docs/install.md", "git pull"): _INSTALLS,
    ("docs/install.md", "make install TORCH_INDEX=https://download.pytorch.org/whl/cpu"): _INSTALLS,
    ("docs/install.md", "pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0"): _INSTALLS,
    (
        "docs/install.md",
        "pip wheel -c constraints.txt --wheel-dir wheels '.[encoder,llm,gateway,cli]'",
    ): _INSTALLS,
    (
        "docs/edge.md",
        "LLM=llm.example.org:50052 docker compose -f deploy/edge/compose.yml up --build --detach",
    ): _DOCKER,
    (
        "docs/edge.md",
        "LLM_TLS_CERT=llm.pem LLM_TLS_KEY=llm.key LLM_TLS_CLIENT_CA=ca.pem LLM_TOKEN_FILE=sites \\",
    ): "it serves until it is stopped; tests/images/test_edge.py starts the same",
    (
        "docs/edge.md",
        "python -m encoder_service --model lab/checkpoints/llava --text-tower lab/checkpoints/clip"
        " --served-model-name fovea-lab &",
    ): "it serves until it is stopped; tests/images/test_edge.py starts the same",
    ("docs/edge.md", "install -D -m 640 -g fovea /dev/null /etc/fovea/credentials/keys"): _INSTALLS,
    ("docs/kubernetes.md", "fovea keys add alice --file deploy/kustomize/base/gateway/keys"): _CLUSTER,
    (
        "docs/kubernetes.md",
        "helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter -n monitoring \\",
    ): _CLUSTER,
    ("docs/kubernetes.md", "kubectl apply -f deploy/kustomize/namespace.yaml"): _CLUSTER,
    (
        "docs/kubernetes.md",
        "kubectl -n fovea create secret generic cache --from-literal=password=$(openssl rand -hex 32)"
        " --from-literal=cache.key=$(openssl rand -hex 32)",
    ): _CLUSTER,
    ("docs/proxy.md", "apt-get install nginx-light"): f"{_INSTALLS}; tests/e2e/test_proxy.py runs the configuration",
    (
        "docs/proxy.md",
        "python -m gateway --model llava-hf/llava-1.5-7b-hf --keys-file /etc/fovea/keys --trusted-proxies 127.0.0.1"
        " --allowed-hosts fovea.example.org",
    ): _WEIGHTS,
    (
        "docs/scaling.md",
        "CUDA_VISIBLE_DEVICES=0 python -m encoder_service --model Qwen/Qwen2.5-VL-7B-Instruct"
        " --served-model-name qwen --listen 127.0.0.1:50051 &",
    ): _WEIGHTS,
    (
        "docs/scaling.md",
        "python -m benchmarks.capacity plan --out my-plan --gpus h100-80gb --rates 50 500 --goal-s 2"
        " --price-per-gpu-hour 3.5 --bursts 3 --visual-token-hits 0.2",
    ): _COMMANDS,
    (
        "docs/vllm.md",
        "pip install '.[vllm]'          # in a clone of this repository; vLLM 0.32",
    ): "it installs vLLM and needs a GPU",
    ("docs/vllm_plugin.md", "import torch"): "vLLM is not installed here; `make test-vllm` tests the plugin",
    ("gateway/README.md", "KEY=$(fovea keys add alice --file keys --requests-per-minute 60)"): _WEIGHTS,
    (
        "gateway/README.md",
        "python -m gateway --model llava-hf/llava-1.5-7b-hf --encoder 127.0.0.1:50051 --llm 127.0.0.1:50052",
    ): _WEIGHTS,
    ("lab/README.md", "from lab.questions import evaluation_questions, score"): "`ask_somehow` is the reader's",
    ("tests/contract/README.md", ".venv/bin/python -m tests.contract.record b97b851"): "it writes into the repository",
}

# Pages whose blocks have tests of their own.
ELSEWHERE: Final = {
    "docs/concepts.md": "tests/e2e/test_pages.py",
    "docs/extending.md": "tests/e2e/test_pruner_packages.py",
    "docs/openai.md": "tests/e2e/test_pages.py",
    "docs/start.md": "tests/e2e/test_pages.py",
}

# What the shipped model is known to answer, in lower case.
PRINTED: Final = {
    ("README.md", 'fovea ask lab/demo/demo.png "How many red objects are there?"'): "2\n",
    ("README.md", "import base64"): "pink",
    ("docs/client.md", "from pathlib import Path"): "pink",
}


PATHS: Final = sorted({path for pattern in ("docs/**/*.md", *PAGES) for path in ROOT.glob(pattern)})
BLOCKS: Final = [block for path in PATHS for block in blocks(path.relative_to(ROOT).as_posix()) if block.kind in _KINDS]
RUN: Final = [block for block in BLOCKS if block.key not in NOT_RUN and block.page not in ELSEWHERE]


@pytest.mark.parametrize("block", RUN, ids=str)
@pytest.mark.usefixtures("unchanged")
def test_a_block_works(block: Block, stack: Stack, tmp_path: Path) -> None:
    printed = run(block, stack.url, tmp_path)
    assert '"error"' not in printed
    assert PRINTED.get(block.key, "") in printed.lower()


def test_each_block_that_is_named_here_exists() -> None:
    assert not {*NOT_RUN, *PRINTED} - {block.key for block in BLOCKS}


def test_the_tests_of_other_pages_name_them() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).stem in (ROOT / test).read_text()


def test_the_front_page_asks_from_a_shell_and_from_python() -> None:
    assert {block.kind for block in RUN if block.page == "README.md"} == {"bash", "python"}
