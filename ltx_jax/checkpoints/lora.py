"""LoRA: the collection of adapters and its official file, and merging into weights (spec transformer.md 14).

An adapter of a linear layer with the official weight W (out, in) is a pair A (rank, in), B (out, rank), and stands for
W + B A. In our trees it is the collection `lora`, which has the paths of `params` with leaves `a` (in, rank) and `b`
(rank, out), stacked over layers like the kernels; layers of unequal rank are padded with zeros.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ltx_jax.bundle import Bundle, LazyParts
from ltx_jax.checkpoints.lora_files import Adapter, Pair, adapter_pairs, listed, load_lora
from ltx_jax.checkpoints.safetensors import Rows, Tensors, write_safetensors
from ltx_jax.checkpoints.tables import part_shapes
from ltx_jax.checkpoints.views import View
from ltx_jax.errors import require
from ltx_jax.names import Name
from ltx_jax.names.dit import TRANSFORMER_PREFIX
from ltx_jax.parallel.multihost import say
from ltx_jax.parts import part_names

PREFIX = "diffusion_model."
ADAPTED_PARTS = ("transformer", "connectors")  # parts that a LoRA file may speak of


# --- modules --------------------------------------------------------------------------------------------------------


def linear_names(names: Iterable[Name]) -> list[Name]:
    """Those of `names` that are weights of linear layers."""
    return [n for n in names if n.path[-1] == "kernel" and n.axes == (1, 0)]


def modules_of(name: Name) -> list[str]:
    """Official module names of one linear layer, one per layer of the stack, without prefix or `.weight`."""
    return [o.removeprefix(TRANSFORMER_PREFIX).removesuffix(".weight") for o in name.officials()]


def targeted(names: Iterable[Name], patterns: Sequence[str]) -> dict[Name, np.ndarray]:
    """Linear layers whose module name equals a pattern or ends with "." + pattern (spec training.md 5.4).

    For each of them which layers of its stack are meant, bool (L,), or (1,) where it stands alone. Raises UserError for
    a pattern that matches nothing.
    """
    linears = linear_names(names)
    hits = {name: np.zeros(len(modules_of(name)), bool) for name in linears}
    for pattern in patterns:
        found = {n: np.array([f".{m}".endswith(f".{pattern}") for m in modules_of(n)]) for n in linears}
        matches = any(hit.any() for hit in found.values())
        require(matches, f"The LoRA target '{pattern}' matches no linear layer of the transformer.")
        hits = {name: hits[name] | found[name] for name in linears}
    return {name: hit for name, hit in hits.items() if hit.any()}


# --- files ----------------------------------------------------------------------------------------------------------


def save_lora(
    path: str | os.PathLike[str],
    lora: Any,
    names: Iterable[Name],
    *,
    scale: float = 1.0,
    dtype: Any = ml_dtypes.bfloat16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the collection `lora` of the transformer with these names, as the official trainer does.

    scale: alpha / rank, folded into B because the file format has no place for it. dtype: of the stored numbers.
    """
    tensors = {k: v.astype(dtype) for k, v in lora_tensors(lora, names, scale).items()}
    write_safetensors(path, tensors, {"format": "pt", **(metadata or {})})


def lora_tensors(lora: Any, names: Iterable[Name], scale: float = 1.0) -> dict[str, np.ndarray]:
    """The collection `lora` under the official keys, float32; the inverse of `lora_tree` for scale 1.

    A layer of a stack that is zero throughout has no adapter, and no keys.
    """
    tensors: dict[str, np.ndarray] = {}
    for name in linear_names(names):
        leaf = _leaf(lora, name.path[:-1])
        if leaf is None:
            continue
        a, b = np.asarray(leaf["a"], np.float32), np.asarray(leaf["b"], np.float32) * np.float32(scale)
        a, b = (x[None] if name.layers is None else x for x in (a, b))
        for module, down, up in zip(modules_of(name), a, b, strict=True):
            if name.layers is not None and not down.any() and not up.any():
                continue
            tensors[f"{PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(down.T)
            tensors[f"{PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(up.T)
    return tensors


def lora_tree(pairs: Mapping[str, Pair], names: Iterable[Name]) -> dict[str, Any]:
    """The collection `lora` of an adapter, float32; modules that the model lacks are left out.

    A layer of the stack without an adapter, or of smaller rank than others, is filled with zeros.
    """
    tree: dict[str, Any] = {}
    for name in linear_names(names):
        found = [pairs.get(module) for module in modules_of(name)]
        ranks = [pair[0].shape[0] for pair in found if pair is not None]
        if not ranks:
            continue
        some = next(pair for pair in found if pair is not None)
        a = np.zeros((len(found), some[0].shape[1], max(ranks)), np.float32)
        b = np.zeros((len(found), max(ranks), some[1].shape[0]), np.float32)
        for i, pair in enumerate(found):
            if pair is not None:
                a[i, :, : len(pair[0])], b[i, : len(pair[0])] = pair[0].T, pair[1].T
        node = tree
        for key in name.path[:-1]:
            node = node.setdefault(key, {})
        node |= {"a": a, "b": b} if name.layers is not None else {"a": a[0], "b": b[0]}
    return tree


def _leaf(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree.get(key)
        if tree is None:
            return None
    return tree


# --- merging --------------------------------------------------------------------------------------------------------


def merge_weight(weight: np.ndarray, pairs: Sequence[Pair], strengths: Sequence[float], dtype: Any) -> np.ndarray:
    """W + sum of strength * (B A) for one weight (out, in), in the arithmetic of the reference (section 14).

    dtype: what every product and sum is rounded to. The result has the weight's dtype.
    """
    total = None
    for (a, b), strength in zip(pairs, strengths, strict=True):
        scaled = (b.astype(dtype) * np.asarray(strength, dtype)).astype(np.float32)
        product = scaled @ a.astype(dtype).astype(np.float32)
        total = product.astype(dtype) if total is None else (total.astype(np.float32) + product).astype(dtype)
    return weight if total is None else (weight.astype(dtype) + total).astype(weight.dtype)


def merge_tensors(
    tensors: Mapping[str, np.ndarray], adapters: Sequence[Mapping[str, Pair]], strengths: Sequence[float], dtype: Any
) -> dict[str, np.ndarray]:
    """Official tensors (without prefix) with the adapters merged into the weights they name; all others unchanged."""
    merged = dict(tensors)
    for key in tensors:
        module = key.removesuffix(".weight")
        hits = [(a[module], s) for a, s in zip(adapters, strengths, strict=True) if module in a and s != 0]
        if key.endswith(".weight") and hits:
            merged[key] = _checked(tensors[key], module, *zip(*hits, strict=True), dtype)
    return merged


def merge_params(params: Any, names: Iterable[Name], adapters: Sequence[Mapping[str, Pair]], strengths: Any) -> Any:
    """A part's parameters with the adapters merged; only the kernels that they touch are copied."""
    for name in linear_names(names):
        kernel = np.asarray(_leaf(params, name.path))
        layers = kernel[None] if name.layers is None else kernel  # (L, in, out)
        changed = {}
        for i, module in enumerate(modules_of(name)):
            weight = {f"{module}.weight": layers[i].T}
            merged = merge_tensors(weight, adapters, strengths, kernel.dtype)[f"{module}.weight"]
            if merged is not weight[f"{module}.weight"]:
                changed[i] = merged.T
        if changed:
            layers = np.stack([changed.get(i, layer) for i, layer in enumerate(layers)])
            params = _replaced(params, name.path, layers[0] if name.layers is None else layers)
    return params


def merge_lora(params: Any, lora: Any, names: Sequence[Name], scale: float = 1.0) -> Any:
    """A part's parameters with the collection `lora` merged; scale: alpha / rank."""
    return merge_params(params, names, [adapter_pairs(lora_tensors(lora, names, scale))], [1.0])


def parse_lora(text: str) -> tuple[str, float]:
    """Path and strength of "PATH", "PATH:STRENGTH" or "PATH,STRENGTH". Raises UserError for a strength of no number."""
    found = re.fullmatch(r"(.+?)[:,]([^:,/]*)", text)
    if found is None or os.path.exists(text):
        return text, 1.0
    try:
        strength = float(found[2])
    except ValueError:
        strength = math.nan
    require(math.isfinite(strength), f"--lora takes a path and a strength, as in FILE:0.8, not '{text}'.")
    return found[1], strength


def apply_loras(bundle: Bundle, loras: Sequence[tuple[str, float]]) -> Bundle:
    """The model with LoRA files merged, each given by path and strength; a note says what a file did not reach.

    Weights are merged one by one as they are read: the model that was given stays as it is, and reads its own again.
    Raises UserError when a file fits nothing in the model, or not the sizes of its layers.
    """
    if not loras:
        return bundle
    parts = part_names(bundle.release)
    names = {part: parts[part].names for part in ADAPTED_PARTS}
    known = {m: (part, n) for part in names for n in linear_names(names[part]) for m in modules_of(n)}
    files = [(path, load_lora(path, known), strength) for path, strength in loras]
    for path, adapter, _ in files:
        _check_fit(path, adapter, known, bundle)
    assert isinstance(bundle.params, LazyParts)
    merged = {}
    for part in ADAPTED_PARTS:
        hits = _hits(names[part], [(adapter, strength) for _, adapter, strength in files])
        if hits:
            merged[part] = bundle.params.loader(part).through(functools.partial(Merged, hits))
    return dataclasses.replace(bundle, params=bundle.params.changed(merged))


def _hits(names: Iterable[Name], adapters: Sequence[tuple[Adapter, float]]) -> dict[str, list[tuple[Pair, float]]]:
    """Pairs and strengths by the official name, without prefix, of the weight that they are added to."""
    found = {}
    for name in linear_names(names):
        for official, module in zip(name.officials(), modules_of(name), strict=True):
            own = [(a.pairs[module], strength) for a, strength in adapters if module in a.pairs and strength != 0]
            found |= {official: own} if own else {}
    return found


class Merged(View):
    """Weights with the products of LoRA pairs added to them. hits: see `_hits`; the weights stand behind `prefix`."""

    def __init__(self, hits: Mapping[str, Sequence[tuple[Pair, float]]], base: Tensors, prefix: str):
        super().__init__(base)
        self._hits = {prefix + name: own for name, own in hits.items()}

    def read(self, name: str, rows: Rows | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop) on the first axis."""
        weight = self.base.read(name, rows)
        if name not in self._hits:
            return weight
        begin, end = rows or (0, len(weight))
        pairs, strengths = zip(*(((a, b[begin:end]), strength) for (a, b), strength in self._hits[name]), strict=True)
        return merge_weight(weight, pairs, strengths, weight.dtype)


def _check_fit(path: str, adapter: Adapter, known: Mapping[str, tuple[str, Name]], bundle: Bundle) -> None:
    """Raise UserError for a LoRA of another model, and note the modules that are not here."""
    model, count = bundle.release.name, len(adapter.pairs)
    missed = [module for module in adapter.pairs if module not in known]
    require(len(missed) < count, f"Nothing in '{path}' fits the model {model}: it adapts {listed(missed)}.")
    if missed:
        say(f"note: {len(missed)} of {count} modules in '{path}' do not exist here: {listed(missed)}")
    for module in adapter.pairs.keys() - set(missed):
        (a, b), (part, name) = adapter.pairs[module], known[module]
        own = part_shapes(bundle.release, part)[name.officials()[0]][::-1]
        require(
            (a.shape[1], b.shape[0]) == own,
            f"'{path}' is for another model: its LoRA of '{module}' fits a layer from {a.shape[1]} to {b.shape[0]} "
            f"features, which in {model} goes from {own[0]} to {own[1]}.",
        )


def _checked(weight: np.ndarray, module: str, pairs: Any, strengths: Any, dtype: Any) -> np.ndarray:
    for a, b in pairs:
        require(
            (b.shape[0], a.shape[1]) == weight.shape,
            f"The LoRA of '{module}' is for a weight of {(b.shape[0], a.shape[1])}, but the model has {weight.shape}.",
        )
    return merge_weight(weight, pairs, strengths, dtype)


def _replaced(tree: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of a nested dict with another value at `path`; siblings are shared."""
    return value if not path else {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}
