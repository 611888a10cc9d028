"""Tensors of files seen otherwise: several files as one, under other names, in another type, scaled back."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from ltx_jax.checkpoints.safetensors import Rows, Tensors
from ltx_jax.errors import UserError

Piece = tuple[str, Rows | None]  # a tensor of another name, or its rows


class Joined(Tensors):
    """The tensors of several files as of one. Raises UserError where two hold the same name."""

    def __init__(self, path: Path, files: Sequence[Tensors]):
        self.path, self.metadata, self._where = path, {}, {}
        self.held = self._where
        for file in files:
            self.metadata = {**file.metadata, **self.metadata}
            for name in file:
                if name in self._where:
                    raise UserError(
                        f"'{file.path}' and '{self._where[name].path}' both hold '{name}': they are no shards of one "
                        "model; keep one of them in the folder."
                    )
                self._where[name] = file

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self._where[name].shape(name)

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        return self._where[name].dtype(name)

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""
        return self._where[name].read(name, rows)


class View(Tensors):
    """The tensors of `base`, which a subclass changes."""

    def __init__(self, base: Tensors):
        self.base, self.path, self.metadata = base, base.path, base.metadata
        self.held = base

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self.base.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        return self.base.dtype(name)

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""
        return self.base.read(name, rows)


class Cast(View):
    """Floating tensors in another type."""

    def __init__(self, base: Tensors, dtype: np.dtype | type):
        super().__init__(base)
        self._dtype = np.dtype(dtype)

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        stored = self.base.dtype(name)
        return self._dtype if is_floating(stored) else stored

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""
        return self.base.read(name, rows).astype(self.dtype(name), copy=False)


class Filled(View):
    """The tensors of `base`, and zeros of the shapes given by name for those that it lacks."""

    def __init__(self, base: Tensors, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__(base)
        self._shapes = {name: shape for name, shape in shapes.items() if name not in base}
        self.held = dict.fromkeys([*base, *self._shapes])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self._shapes.get(name) or self.base.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        return np.dtype(np.float32) if name in self._shapes else self.base.dtype(name)

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""
        if name not in self._shapes:
            return self.base.read(name, rows)
        zeros = np.zeros(self._shapes[name], np.float32)
        return zeros if rows is None else zeros[rows[0] : rows[1]]


class Renamed(View):
    """Tensors under other names, each made of pieces of `base` that are joined on the first axis."""

    def __init__(self, base: Tensors, table: Mapping[str, Sequence[Piece]]):
        super().__init__(base)
        self.held = self._table = table

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        shapes = [self.base.shape(old) for old, _ in self._table[name]]
        if len(shapes) == 1 and self._table[name][0][1] is None:
            return shapes[0]
        return (sum(stop - start for start, stop in self._spans(name)), *shapes[0][1:])

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        return self.base.dtype(self._table[name][0][0])

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""
        pieces = self._table[name]
        if len(pieces) == 1 and pieces[0][1] is None:
            return self.base.read(pieces[0][0], rows)
        parts, at = [], 0
        begin, end = rows or (0, self.shape(name)[0])
        for (old, _), (start, stop) in zip(pieces, self._spans(name), strict=True):
            first, last = max(begin - at, 0) + start, min(end - at, stop - start) + start
            if first < last:
                parts.append(self.base.read(old, (first, last)))
            at += stop - start
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _spans(self, name: str) -> list[Rows]:
        return [rows or (0, self.base.shape(old)[0]) for old, rows in self._table[name]]


SCALES = (".weight_scale", ".scale_weight")  # beside a weight in float8: one number that it was divided by
_COMPANIONS = re.compile(r"\.(weight_scale|scale_weight|input_scale|scale_input|comfy_quant)$|^scaled_fp8$")
_REFUSED = (
    (r"\.weight_scale_2$", "nvfp4"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.weight\.(absmax|quant_map|quant_state)", "bitsandbytes"),
    (r"\.weight\.(__0|_data|int_repr)", "torchao"),
    (r"svdq|\.smooth_factor$", "SVDQuant"),
)


class Dequantised(View):
    """The weights of a scaled float8 file in bfloat16; all other tensors as they are (spec transformer.md 16.3).

    Raises UserError for a quantisation that is not read here.
    """

    def __init__(self, base: Tensors):
        super().__init__(base)
        check_quantisation(base)
        self.held = dict.fromkeys(name for name in base if not _COMPANIONS.search(name))

    def dtype(self, name: str) -> np.dtype:
        """Type of a tensor without reading it."""
        stored = self.base.dtype(name)
        return np.dtype(ml_dtypes.bfloat16) if stored.itemsize == 1 and is_floating(stored) else stored

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""
        array, dtype = self.base.read(name, rows), self.dtype(name)
        if array.dtype == dtype:
            return array
        found = [s for end in SCALES if (s := name.removesuffix(".weight") + end) in self.base]
        if not found:
            return array.astype(dtype)
        return (array.astype(np.float32) * np.float32(self.base.read(found[0]).reshape(()))).astype(dtype)


def quantisation(tensors: Tensors) -> str:
    """What the weights are quantised to, in a word; "" where they are not."""
    for pattern, kind in _REFUSED:
        if any(re.search(pattern, name) for name in tensors):
            return kind
    types = {tensors.dtype(name) for name in tensors if name.endswith(".weight") and len(tensors.shape(name)) == 2}
    if any(is_floating(t) and t.itemsize == 1 for t in types):
        return "scaled fp8" if any(name.endswith(SCALES) for name in tensors) else "fp8"
    return "int8" if np.dtype(np.int8) in types else ""


def check_quantisation(tensors: Tensors) -> None:
    """Raise UserError for weights in a form that is not read here."""
    kind = quantisation(tensors)
    if kind not in ("", "fp8", "scaled fp8"):
        raise UserError(
            f"'{tensors.path}' is quantised as {kind}, which is not read here; take the bfloat16 or fp8 file of the "
            "model."
        )
    for name in tensors:
        if name.endswith(SCALES) and tensors.shape(name) not in ((), (1,)):
            raise UserError(
                f"'{tensors.path}' has scales of several numbers ('{name}'), which are not read: give one per weight."
            )


def is_floating(dtype: np.dtype) -> bool:
    """Whether a type is a floating one, those of `ml_dtypes` included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))
