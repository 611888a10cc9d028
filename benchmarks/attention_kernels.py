"""The attention implementations that `attention.py` compares, and the block sizes that it tries."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.kernels import gpu, tpu
from ltx_jax.kernels.blocked import LOOPED_BLOCK, blocked_attention, blocked_attention_with_statistics
from ltx_jax.kernels.gpu_hopper import hopper_attention
from ltx_jax.kernels.gpu_tiles import HOPPER_TILES
from ltx_jax.kernels.gpu_triton import triton_attention
from ltx_jax.kernels.gpu_triton_tiles import triton_candidates, triton_tile
from ltx_jax.kernels.reference import reference_attention
from ltx_jax.kernels.spec import AttentionSpec, Mask
from ltx_jax.kernels.tiles import candidates, tile_for

Array = jax.Array
Attention = Callable[[Array, Array, Array], Array]  # q (B, T, N, K), k, v (B, S, N, K) -> (B, T, N, K)


def families(platform: str, kind: str) -> list[str]:
    """Our kernels for a device, the default first."""
    if platform == "tpu":
        return ["tpu"]
    if platform in gpu.PLATFORMS:
        return ["hopper", "triton"] if any(name in kind for name in gpu.HOPPER) else ["triton"]
    return ["blocked"]


def ours(family: str, tile: Any = None) -> Attention:
    """One of our kernels at a tile (None for the blocked form, which has none)."""
    kernel = {"tpu": tpu.tpu_attention, "hopper": hopper_attention, "triton": triton_attention}.get(family)
    if kernel is None:
        return lambda q, k, v: blocked_attention(q, k, v, Mask(), AttentionSpec())
    return lambda q, k, v: kernel(q, k, v, Mask(), AttentionSpec(), tile=tile)[0]


def default_tile(family: str, kind: str, width: int, dtype: Any) -> Any:
    """The tile that the tables name."""
    if family == "tpu":
        return tile_for(kind)
    if family == "hopper":
        return HOPPER_TILES[width]
    return triton_tile(kind, width, dtype) if family == "triton" else None


def all_tiles(family: str, kind: str, width: int, dtype: Any) -> list[Any]:
    """The default tile, then what a tuner tries beside it."""
    base = default_tile(family, kind, width, dtype)
    others: list[Any] = []
    if family == "tpu":
        others = candidates(kind)
    elif family == "triton":
        others = triton_candidates(kind, width, dtype)
    elif family == "hopper":
        sizes = list(itertools.product((2, 3), (64, 128, 192), (2, 3)))
        for part in (("workers", "keys", "slots"), ("dq_workers", "dq_keys", "dq_slots")):
            others += [dataclasses.replace(base, **dict(zip(part, size, strict=True))) for size in sizes]
        names = ("dkv_workers", "dkv_queries", "dkv_slots")
        others += [dataclasses.replace(base, **dict(zip(names, size, strict=True))) for size in sizes]
    return list(dict.fromkeys([base, *others]))


def implementations(platform: str, kind: str, width: int, dtype: Any) -> dict[str, Attention]:
    """Name -> attention, ours first, of all that may run on the device."""
    found: dict[str, Attention] = {}
    for family in families(platform, kind):
        found[f"ours: {family}"] = ours(family, default_tile(family, kind, width, dtype))
    if platform == "cpu":
        settings = {"block": LOOPED_BLOCK, "looped": True}  # what the front door takes there
        found["ours: looped"] = lambda *a: blocked_attention_with_statistics(*a, Mask(), AttentionSpec(), **settings)[0]
        found["ours: reference"] = lambda q, k, v: reference_attention(q, k, v, Mask(), AttentionSpec())
    found["jax.nn xla"] = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    if platform in gpu.PLATFORMS:
        found["jax.nn cudnn"] = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
        found["jax pallas triton"] = _jax_triton
        if "hopper" in families(platform, kind):
            found["jax pallas mosaic gpu"] = _jax_mosaic_gpu
    if platform == "tpu":
        found["jax pallas flash"] = _jax_flash
        found["jax pallas splash"] = _jax_splash
    try:
        import tokamax  # type: ignore[import-not-found]
    except ImportError:
        return found
    return found | {"tokamax": tokamax.dot_product_attention}


def _jax_triton(q: Array, k: Array, v: Array) -> Array:
    from jax.experimental.pallas.ops.gpu.attention import mha

    return mha(q, k, v, None, sm_scale=q.shape[-1] ** -0.5)


def _jax_mosaic_gpu(q: Array, k: Array, v: Array) -> Array:
    from jax.experimental.pallas.ops.gpu import attention_mgpu as shipped

    blocks = {"block_q_dkv": 64, "block_kv_dkv": 64, "block_q_dq": 64, "block_kv_dq": 64}
    config = shipped.TuningConfig(block_q=64, block_kv=128, max_concurrent_steps=2, **blocks)
    return shipped.attention(q * q.shape[-1] ** -0.5, k, v, config)  # it does not scale


def _heads_first(x: Array) -> Array:
    return x.transpose(0, 2, 1, 3)  # (B, N, T, K)


def _jax_flash(q: Array, k: Array, v: Array) -> Array:
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    return _heads_first(flash_attention(*map(_heads_first, (q, k, v)), sm_scale=q.shape[-1] ** -0.5))


def _jax_splash(q: Array, k: Array, v: Array) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    mask = splash_attention_mask.FullMask((q.shape[1], k.shape[1]))
    masks = splash_attention_mask.MultiHeadMask([mask] * q.shape[2])
    kernel = splash_attention_kernel.make_splash_mha(masks, head_shards=1, q_seq_shards=1)
    return _heads_first(jax.vmap(kernel)(_heads_first(q * q.shape[-1] ** -0.5), _heads_first(k), _heads_first(v)))


def draw(shape: tuple[int, ...], seed: int, dtype: Any) -> Array:
    """Normal values of a shape."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)
