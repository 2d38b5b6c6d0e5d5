from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from gpt2edge.export.onnx_file import ALIGNMENT, write_weights


def write(folder: Path, **arrays: np.ndarray) -> dict[str, ir.TensorProtocol]:
    tensors = {name: ir.Tensor(array, name=name) for name, array in arrays.items()}
    return write_weights(folder / "w.data", tensors)


def test_bytes_offsets_and_order(tmp_path: Path) -> None:
    big = np.arange(1001, dtype=np.float32)
    other = np.arange(600, dtype=np.float16)
    small = np.arange(3, dtype=np.float32)
    placed = write(tmp_path, b=big, a=other, c=small)
    stored = (tmp_path / "w.data").read_bytes()
    for name, array in (("a", other), ("b", big)):
        tensor = placed[name]
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.offset % ALIGNMENT == 0
        assert stored[tensor.offset : tensor.offset + tensor.length] == array.tobytes()
        assert str(tensor.location) == "w.data"
    assert placed["a"].offset < placed["b"].offset
    assert isinstance(placed["c"], ir.Tensor)


def test_a_non_contiguous_array_is_written_as_it_reads(tmp_path: Path) -> None:
    array = np.arange(64 * 32, dtype=np.float32).reshape(64, 32).T
    placed = write(tmp_path, w=array)
    np.testing.assert_array_equal(placed["w"].numpy(), array)


def test_views_of_one_memory_are_stored_once(tmp_path: Path) -> None:
    array = np.arange(4096, dtype=np.float32)
    placed = write(tmp_path, flat=array, square=array.reshape(64, 64), copy=array.copy())
    assert placed["flat"].offset == placed["square"].offset != placed["copy"].offset
    assert (tmp_path / "w.data").stat().st_size == 2 * array.nbytes
    np.testing.assert_array_equal(placed["square"].numpy(), array.reshape(64, 64))
