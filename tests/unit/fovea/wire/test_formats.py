"""The registry of wire formats, the documents that list them, and what a new format needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from fovea.v1 import tensor_pb2
from fovea.wire import codecs, formats
from fovea.wire.codecs import CODECS
from fovea.wire.formats import WIRE_FORMATS, formats_for_byte_budgets, names_accepted

ROOT = Path(__file__).parents[4]

# A codec of one bit a value, its line among the codecs, and its entry in the registry.
CODEC = """
import numpy as np
from fovea.wire.codec import Codec

class SignCodec(Codec):
    def encode(self, tokens, coding):
        return np.packbits(tokens > 0).tobytes()

    def decode(self, data, num_tokens, channels, basis=None):
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=num_tokens * channels)
        return (bits * 2.0 - 1).astype(np.float32).reshape(num_tokens, channels)

    def exact_bytes(self, num_values):
        return -(-num_values // 8)

    def expected_bytes(self, num_tokens, channels, basis=None):
        return self.exact_bytes(num_tokens * channels)
"""
CODEC_LINE = "        99: SignCodec(),\n"
ENTRY = '    WireFormat("sign", 99, "one bit", in_byte_budgets=True, superseded_by_basis=True),\n'
# What follows from the registry, printed as JSON by a process that has the entry.
DERIVED = """
import importlib.util, json, sys
for name in ("formats", "codecs"):
    spec = importlib.util.spec_from_file_location(f"fovea.wire.{name}", f"{sys.argv[1]}/{name}.py")
    module = sys.modules[f"fovea.wire.{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

import numpy as np
from pydantic import ValidationError
from encoder_service.engine.wire_values import device_format
from encoder_service.server.wire_budget import fit_messages, max_tokens_for_bytes
from encoder_service.settings import EncoderSettings
from fovea.cli import main
from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire import tensors
from fovea.wire.formats import dtype_name
from gateway.http.schemas.answer import AnswerRequest
from gateway.settings import GatewaySettings

def refusal(call):
    try:
        return call()
    except (InvalidRequest, ValidationError) as error:
        return str(error)

signs = np.where(np.random.default_rng(0).random((5, 100)) > 0.5, 1, -1).astype(np.float32)
message = tensor_pb2.Tensor.FromString(tensors.to_message(signs, 99).SerializeToString())
too_short = tensor_pb2.Tensor(dtype=99, shape=[9], data=b"1")
write = lambda dtype, step: [tensor_pb2.VisualTokens(features=tensors.to_message(signs, dtype))]
(fitted,) = fit_messages(write, [signs], 100)
print(json.dumps({
    "encoder setting": EncoderSettings(model="m", wire_dtype="sign").wire_dtype,
    "gateway setting": GatewaySettings(model="m", wire_dtype="sign").wire_dtype,
    "refused settings": [
        refusal(lambda: EncoderSettings(model="m", wire_dtype="int3")),
        refusal(lambda: GatewaySettings(model="m", wire_dtype="int3")),
    ],
    "request": AnswerRequest(question="q", image="data:", wire_dtype="sign").wire_dtype,
    "schema": AnswerRequest.model_json_schema()["properties"]["wire_dtype"]["anyOf"][0]["enum"],
    "refused names": [refusal(lambda: tensors.parse_dtype("int3")), refusal(lambda: tensors.to_message(signs, 77))],
    "refused size": refusal(lambda: tensors.from_message(too_short, max_bytes=99)),
    "name": dtype_name(99),
    "bytes": len(message.data),
    "round trip": bool((tensors.from_message(message, max_bytes=2**20) == signs).all()),
    "fitted": fitted.features.dtype,
    "most tokens": max_tokens_for_bytes(1000, num_media=1, channels=512, fingerprint="", grid=(8, 8)),
    "on the device": device_format("sign"),
}))
try:
    main(["ask", "--help"])
except SystemExit:
    pass
"""


def test_each_dtype_of_the_contract_has_a_format_of_its_name() -> None:
    of_contract = {name.removeprefix("DTYPE_").lower(): value for name, value in tensor_pb2.DType.items() if value}
    assert {name: wire_format.dtype for name, wire_format in WIRE_FORMATS.items()} == of_contract


def test_each_format_has_a_codec() -> None:
    assert set(CODECS) == {wire_format.dtype for wire_format in WIRE_FORMATS.values()}


@pytest.mark.parametrize(
    ("has_basis", "names"),
    [(False, ["float16", "int8", "int4", "entropy"]), (True, ["float16", "int8", "basis"])],
)
def test_a_budget_of_bytes_considers_the_widest_format_first(has_basis: bool, names: Sequence[str]) -> None:
    considered = formats_for_byte_budgets(has_basis=has_basis)
    assert [wire_format.name for wire_format in considered] == names
    if not has_basis:
        sizes = [CODECS[wire_format.dtype].expected_bytes(64, 1024) for wire_format in considered]
        assert sizes == sorted(sizes, reverse=True)


def test_without_a_basis_all_other_formats_are_accepted() -> None:
    assert set(names_accepted(has_basis=True)) - set(names_accepted(has_basis=False)) == {"basis"}


def test_the_table_in_the_documents_is_the_registry() -> None:
    page = (ROOT / "docs/wire.md").read_text(encoding="utf-8")
    table = page[page.index("| `wire_dtype` | `DType` |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        [f"`{wire_format.name}`", str(wire_format.dtype), wire_format.summary] for wire_format in WIRE_FORMATS.values()
    ]
    for name, size in ((row[0].strip("`"), row[3].replace(",", "")) for row in rows):
        if size.isdigit():
            assert CODECS[WIRE_FORMATS[name].dtype].expected_bytes(64, 1024) == int(size)


@pytest.mark.parametrize(("file", "line"), [("README.md", "* **Wire formats:**"), ("docs/api.md", "| `wire_dtype` |")])
def test_pages_that_list_the_formats_list_them_all(file: str, line: str) -> None:
    (row,) = (text for text in (ROOT / file).read_text(encoding="utf-8").splitlines() if text.startswith(line))
    assert [name for name in WIRE_FORMATS if f"`{name}`" not in row] == []


def changed(module: ModuleType, lines: Mapping[str, str]) -> str:
    """The source of a module with lines before others, each of which it has once."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    for before, line in lines.items():
        assert source.count(before) == 1
        source = source.replace(before, line + before)
    return source


def test_a_new_format_is_an_entry_and_a_codec(tmp_path: Path) -> None:
    """An entry in the registry reaches settings, schemas, error texts, budgets of bytes, tensors and the command."""
    with_entry = changed(formats, {'    WireFormat(\n        "basis",': ENTRY})
    imports = {"from fovea.wire.quantized import": "from sign_codec import SignCodec\n"}
    with_codec = changed(codecs, {"        tensor_pb2.DTYPE_BASIS:": CODEC_LINE} | imports)
    (tmp_path / "formats.py").write_text(with_entry, encoding="utf-8")
    (tmp_path / "codecs.py").write_text(with_codec, encoding="utf-8")
    (tmp_path / "sign_codec.py").write_text(CODEC, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", DERIVED, tmp_path],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed, _, ask_help = done.stdout.partition("\n")
    derived = json.loads(printed)
    names = [*list(WIRE_FORMATS)[:-1], "sign", "basis"]
    assert derived["encoder setting"] == derived["gateway setting"] == derived["request"] == derived["name"] == "sign"
    assert all("'entropy', 'sign' or 'basis'" in text for text in derived["refused settings"])
    assert derived["schema"] == names
    assert all(", ".join(names) in text for text in derived["refused names"])
    assert derived["refused size"] == "a sign tensor of shape [9] has 2 bytes, not 1"
    assert derived["bytes"] == 63
    assert derived["round trip"] is True
    assert derived["fitted"] == 99
    assert derived["most tokens"] == 14  # 1 byte for the position and 64 for the features of a token, 64 for all
    assert derived["on the device"] == "float32"
    assert f"{{{','.join(names)}}}" in ask_help
