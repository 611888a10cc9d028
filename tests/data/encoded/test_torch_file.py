"""Tensors are read, and nothing that could run is."""

import collections
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_files import Tensor, bfloat16, save

from ltx_jax.data.encoded.torch_file import read_torch_file
from ltx_jax.errors import UserError


def test_tensors_containers_and_numbers_are_read(tmp_path):
    grid = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    value = {
        "latents": bfloat16(grid), "mask": Tensor(np.array([True, False])), "fps": 24.0, "names": ["a", (1, None)],
        "more": collections.OrderedDict(x=Tensor(np.int64([3]))), "turned": Tensor(grid, (4, 3), (1, 4), 12),
        "empty": Tensor(np.zeros((0, 3), np.float32)), "number": Tensor(np.float32(5)),
    }  # fmt: skip
    save(tmp_path / "x.pt", value)
    read = read_torch_file(tmp_path / "x.pt")
    assert read["latents"].dtype == ml_dtypes.bfloat16 and read["fps"] == 24.0 and read["names"] == ["a", (1, None)]
    np.testing.assert_array_equal(read["latents"].astype(np.float32), grid)
    np.testing.assert_array_equal(read["turned"], grid[1].T)
    assert read["mask"].tolist() == [True, False] and read["more"]["x"].tolist() == [3]
    assert read["empty"].shape == (0, 3) and read["number"] == 5


def test_shapes_are_read_without_values(tmp_path):
    save(tmp_path / "x.pt", {"latents": bfloat16(np.ones((2, 3))), "fps": 8.0})
    read = read_torch_file(tmp_path / "x.pt", values=False)
    assert read["latents"].shape == (2, 3) and not read["latents"].any() and read["fps"] == 8.0


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("function", [os.system, eval, os.mkdir, pickle.loads])
def test_no_other_name_is_ever_called(tmp_path, function):
    target = tmp_path / "made"
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"latents": Evil(function, str(target))}))
    with pytest.raises(UserError, match="is not read from"):
        read_torch_file(tmp_path / "x.pt")
    assert not target.exists()


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(np.zeros(4, np.float32), (5,), (1,)), Tensor(np.zeros(4, np.float32), (2,), (1,), 3),
        Tensor(np.zeros(4, np.float32), (2,), (-1,), 1), Tensor(np.zeros(4, np.float32), (2,), (1,), -2),
        Tensor(np.zeros(4, np.float32), (1 << 40,), (0,)), Tensor(np.zeros(4, np.float32), (2, 2), (1,)),
    ],
)  # fmt: skip
def test_tensors_that_lie_about_their_storage_are_refused(tmp_path, tensor):
    save(tmp_path / "x.pt", {"latents": tensor})
    with pytest.raises(UserError, match="that can be read"):
        read_torch_file(tmp_path / "x.pt")


def test_damaged_and_foreign_files_get_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_torch_file(tmp_path / "absent.pt")
    path = tmp_path / "x.pt"
    save(path, {"latents": bfloat16(np.ones((2, 3)))}, truncate=4)
    with pytest.raises(UserError, match="truncated"):
        read_torch_file(path)
    for content in (b"", b"not a zip", pickle.dumps({"x": 1})):
        path.write_bytes(content)
        with pytest.raises(UserError, match="that can be read"):
            read_torch_file(path)
