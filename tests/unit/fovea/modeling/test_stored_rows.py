"""Rows of a stored matrix are those of the matrix, in every form of a checkpoint, and the matrix takes no memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from fovea.modeling.errors import CheckpointError
from fovea.modeling.stored_rows import open_rows

NAME = "model.embed_tokens.weight"
OTHER = {"a.weight": torch.ones(3, 5), "z.weight": torch.ones(7)}
INDICES = torch.tensor([0, 99, 42, 42, 1])

Write = Callable[[Path, torch.Tensor], object]


def matrix(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(100, 24, generator=torch.Generator().manual_seed(0)).to(dtype)


def one_file(folder: Path, values: torch.Tensor) -> None:
    save_file({NAME: values, **OTHER}, folder / "model.safetensors")


def shards(folder: Path, values: torch.Tensor) -> None:
    """The matrix in the second of three shards. The third is missing, since nothing of it is needed."""
    save_file({"a.weight": OTHER["a.weight"]}, folder / "model-00001-of-00003.safetensors")
    save_file({"z.weight": OTHER["z.weight"], NAME: values}, folder / "model-00002-of-00003.safetensors")
    weight_map = {"a.weight": 1, NAME: 2, "z.weight": 2, "missing.weight": 3}
    files = {name: f"model-0000{number}-of-00003.safetensors" for name, number in weight_map.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def shards_without_index(folder: Path, values: torch.Tensor) -> None:
    shards(folder, values)
    (folder / "model.safetensors.index.json").unlink()


def pytorch_bin(folder: Path, values: torch.Tensor) -> None:
    torch.save({**OTHER, NAME: values}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("write", [one_file, shards, shards_without_index, pytorch_bin])
def test_rows_are_those_of_the_matrix(tmp_path: Path, write: Write, dtype: torch.dtype) -> None:
    write(tmp_path, matrix(dtype))
    rows = open_rows(tmp_path, ["another.weight", NAME])
    assert rows is not None
    assert rows.shape == (100, 24)
    assert rows.dtype == dtype
    assert torch.equal(rows.read(INDICES), matrix(dtype)[INDICES])
    assert rows.read(INDICES[:0]).shape == (0, 24)


@pytest.mark.parametrize("write", [one_file, shards, pytorch_bin])
def test_a_checkpoint_without_the_matrix_has_no_rows(tmp_path: Path, write: Write) -> None:
    write(tmp_path, matrix())
    assert open_rows(tmp_path, ["another.weight"]) is None


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


@pytest.mark.parametrize(
    ("write", "name"), [(one_file, "model.safetensors"), (pytorch_bin, "pytorch_model.bin")], ids=["safetensors", "bin"]
)
def test_a_file_that_is_too_short_is_refused(tmp_path: Path, write: Write, name: str) -> None:
    write(tmp_path, matrix())
    cut(tmp_path / name)
    with pytest.raises(CheckpointError, match="is the download complete"):
        open_rows(tmp_path, [NAME])


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    shards(tmp_path, matrix())
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read \(FileNotFoundError\)"):
        open_rows(tmp_path, [NAME])


def test_a_file_that_is_cut_off_while_in_use_loses_rows_and_not_the_process(tmp_path: Path) -> None:
    save_file({NAME: matrix()}, tmp_path / "model.safetensors")
    rows = open_rows(tmp_path, [NAME])
    assert rows is not None
    cut(tmp_path / "model.safetensors")
    assert torch.equal(rows.read(torch.tensor([5])), matrix()[[5]])
    with pytest.raises(OSError, match="row 99 of a matrix is gone"):
        rows.read(INDICES)


def test_a_file_that_is_replaced_while_in_use_stays_readable(tmp_path: Path) -> None:
    one_file(tmp_path, matrix())
    rows = open_rows(tmp_path, [NAME])
    assert rows is not None
    (tmp_path / "new").write_bytes(b"a download that took the file's place")
    (tmp_path / "new").rename(tmp_path / "model.safetensors")
    assert torch.equal(rows.read(INDICES), matrix()[INDICES])


def open_files(path: Path) -> int:
    """Number of this process's file descriptors of a file."""
    return [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()].count(str(path))


def test_the_file_is_closed_with_its_rows(tmp_path: Path) -> None:
    one_file(tmp_path, matrix())
    rows = open_rows(tmp_path, [NAME])
    assert open_files(tmp_path / "model.safetensors") == 1
    del rows
    assert open_files(tmp_path / "model.safetensors") == 0


def large_matrix(folder: Path, num_rows: int, width: int) -> None:
    """A file of zeros in bfloat16 that takes no disk."""
    num_bytes = 2 * num_rows * width
    header = json.dumps({NAME: {"dtype": "BF16", "shape": [num_rows, width], "data_offsets": [0, num_bytes]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)


def test_a_process_that_reads_rows_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    """Unique and resident set size while a quarter of the rows of a matrix of 200 MB are read, 64 at a time."""
    large_matrix(tmp_path, 28_000, 3584)
    process = psutil.Process()
    before = process.memory_full_info()
    rows = open_rows(tmp_path, [NAME])
    assert rows is not None
    for start in range(0, 28_000, 256):
        rows.read(torch.arange(start, start + 64).clamp(max=27_999))
    after = process.memory_full_info()
    assert after.uss - before.uss < 4e6
    assert after.rss - before.rss < 4e6
