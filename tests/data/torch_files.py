"""Writes `.pt` files as torch.save does, without torch: its names are lent to pickle for a moment."""

import pickle
import sys
import types
import zipfile
from io import BytesIO

import ml_dtypes
import numpy as np

STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip


class Tensor:
    """An array to be written as a tensor; stride and offset may lie."""

    def __init__(self, array, size=None, stride=None, offset=0):
        self.array = np.ascontiguousarray(array)
        self.size = self.array.shape if size is None else size
        natural = tuple(s // self.array.itemsize for s in self.array.strides)
        self.stride = natural if stride is None else stride
        self.offset = offset


def fake_torch():
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    rebuild = types.FunctionType((lambda: None).__code__, {}, "_rebuild_tensor_v2")
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    torch._utils = utils
    return {"torch": torch, "torch._utils": utils}


def save(path, value, truncate=None):
    """Write `value`, Tensors and bfloat16 included, to `path`."""
    modules, storages = fake_torch(), []

    class Storage:
        def __init__(self, array):
            self.array = array

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            storages.append(obj.array)
            kind = getattr(modules["torch"], STORAGES[obj.array.dtype.name])
            return ("storage", kind, str(len(storages) - 1), "cpu", obj.array.size)

        def reducer_override(self, obj):
            if not isinstance(obj, Tensor):
                return NotImplemented
            rebuild = modules["torch._utils"]._rebuild_tensor_v2
            return rebuild, (Storage(obj.array), obj.offset, tuple(obj.size), tuple(obj.stride), False, {})

    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        buffer = BytesIO()
        Pickler(buffer, protocol=2).dump(value)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", "little")
        for number, array in enumerate(storages):
            archive.writestr(f"archive/data/{number}", array.tobytes()[:truncate])
        archive.writestr("archive/version", "3\n")


def bfloat16(array):
    """A Tensor of that type."""
    return Tensor(np.asarray(array, np.float32).astype(ml_dtypes.bfloat16))
