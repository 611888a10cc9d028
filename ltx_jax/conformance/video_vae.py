"""Recorded cases of the video VAE (spec video_vae.md). Recordings are channels-first.

Convolutions take their published form, one 3D convolution: the sums over time taps that are faster on a CPU round
otherwise, and norms over two channels, as the smallest recordings have, blow that up to several tolerances.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.errors import UserError
from ltx_jax.kernels.neighbourhood import neighbourhood_attention
from ltx_jax.models import latents as statistics
from ltx_jax.models import tiling
from ltx_jax.models.video_vae.blocks import AttnBlock, DepthToSpaceUpsample, ResnetBlock, SpaceToDepthDownsample
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.models.video_vae.conv import CausalConv3d
from ltx_jax.models.video_vae.decoder import DECODE_NOISE_SCALE, VideoDecoder, mix_decode_noise
from ltx_jax.models.video_vae.diffusion_config import DiffusionDecoderConfig
from ltx_jax.models.video_vae.encoder import VideoEncoder, crop_frames, split_moments
from ltx_jax.models.video_vae.layers import Settings, patchify, unpatchify
from ltx_jax.models.video_vae.neighbourhood import NeighbourhoodAttention
from ltx_jax.names import to_tree
from ltx_jax.names.diffusion_decoder import neighbourhood_names
from ltx_jax.names.video_vae import (
    attn_names,
    conv_names,
    resnet_names,
    video_decoder_names,
    video_encoder_names,
)  # fmt: skip
from ltx_jax.splits import Interval, by_count, by_size, temporal_frames, trapezoid, with_sacrificial_start

Outputs = dict[str, np.ndarray]
Params = Mapping[str, Any]


def channels_last(x: np.ndarray) -> jax.Array:
    """(B, C, F, H, W) -> (B, F, H, W, C)."""
    return jnp.asarray(x).transpose(0, 2, 3, 4, 1)


def channels_first(x: Any) -> np.ndarray:
    """(B, F, H, W, C) -> (B, C, F, H, W)."""
    return np.asarray(x).transpose(0, 4, 1, 2, 3)


def case_statistics(
    case: Case, prefix: str = "per_channel_statistics.", channels: int | None = None
) -> statistics.Statistics:
    """The statistics among the weights of `case`; mean 0 and std 1 where it has none (section 2).

    channels: of the latents, None for those of the case's video VAE.
    """
    mean = case.weights.get(f"{prefix}mean-of-means")
    if mean is None:
        channels = channels or VideoVAEConfig.from_official(case.config["vae"]).latent_channels
        return {"mean": jnp.zeros(channels), "std": jnp.ones(channels)}
    return {"mean": jnp.asarray(mean), "std": jnp.asarray(case.weights[f"{prefix}std-of-means"])}


def _run(module: nn.Module, params: Params, *inputs: Any) -> np.ndarray:
    return channels_first(jax.jit(module.apply)({"params": params}, *inputs))


def _settings(case: Case, causal: bool) -> Settings:
    c = case.config
    return Settings(
        padding=c.get("spatial_padding_mode", "zeros"), causal=causal, norm_layer=c.get("norm_layer", "pixel_norm"),
        groups=c.get("groups", 32), timestep=c.get("timestep_conditioning", False),
    )  # fmt: skip


def _both(case: Case, make: Callable[[Settings], nn.Module], params: Params, *more: Any) -> Outputs:
    """Outputs `causal` and `symmetric` of the block that `make` builds."""
    x = channels_last(case.inputs["x"])
    modes = [mode for mode in ("causal", "symmetric") if mode in case.outputs]
    return {mode: _run(make(_settings(case, mode == "causal")), params, x, *more) for mode in modes}


def _conv(case: Case) -> Outputs:
    c, params, outputs = case.config, to_tree(conv_names("", ()), _dotted(case.weights)), {}
    for name in case.outputs:
        x = case.inputs["x_one_frame" if name.startswith("one_frame_") else "x"]
        conv = CausalConv3d(
            c["out_channels"], not name.endswith("symmetric"), c.get("spatial_padding_mode", "zeros"),
            tuple(c.get("stride", (1, 1, 1))), c.get("kernel_size", 3),
        )  # fmt: skip
        outputs[name] = _run(conv, params, channels_last(x))
    return outputs


def _dotted(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights under the names of a module without a name of its own: `.conv.weight`."""
    return {f".{name}": array for name, array in weights.items()}


def _patchify(case: Case) -> Outputs:
    x, patch = channels_last(case.inputs["x"]), case.config["patch_size"]
    patches = patchify(x, patch)
    return {"patchified": channels_first(patches), "unpatchified": channels_first(unpatchify(patches, patch))}


def _statistics(case: Case) -> Outputs:
    x, values = channels_last(case.inputs["x"]), case_statistics(case, "")
    return {
        "normalized": channels_first(statistics.normalize(x, values)),
        "un_normalized": channels_first(statistics.denormalize(x, values)),
    }


def _space_to_depth(case: Case) -> Outputs:
    c, params = case.config, to_tree(conv_names("conv", ("conv",)), case.weights)
    return _both(case, lambda s: SpaceToDepthDownsample(s, c["out_channels"], tuple(c["stride"])), params)


def _depth_to_space(case: Case) -> Outputs:
    c, params = case.config, to_tree(conv_names("conv", ("conv",)), case.weights)
    divisor, residual = c.get("out_channels_reduction_factor", 1), c.get("residual", False)
    return _both(case, lambda s: DepthToSpaceUpsample(s, tuple(c["stride"]), divisor, residual), params)


def _resnet(case: Case) -> Outputs:
    c, features, noise = case.config, case.config["out_channels"], case.config.get("inject_noise", False)
    names = resnet_names(
        "", (), c.get("norm_layer") == "group_norm", c["in_channels"] != features,
        c.get("timestep_conditioning", False), noise,
    )  # fmt: skip
    noises = [case.inputs["noise_0"], case.inputs["noise_1"]] if noise else None
    more = (case.inputs.get("timestep_embedding"), noises)
    return _both(case, lambda s: ResnetBlock(s, features, noise), to_tree(names, case.weights), *more)


def _attn(case: Case) -> Outputs:
    return _both(case, AttnBlock, to_tree(attn_names("", ()), case.weights))


def _neighbourhood(case: Case) -> Outputs:
    """The bare function on q, k, v, or the layer on channels-last x (section 7)."""
    c, window = case.config, tuple(case.config["kernel_size"])
    if c.get("form", "module" if "x" in case.inputs else "function") == "function":
        q, k, v = (case.inputs[name] for name in ("q", "k", "v"))
        call = lambda *a: neighbourhood_attention(*a, window, c.get("scale", 1.0))  # type: ignore[arg-type]
        return {"out": np.asarray(jax.jit(call)(q, k, v))}
    params = to_tree(neighbourhood_names("", ("heads",), ("proj",)), case.weights)
    split = tuple(c["rope_dim_split"]) if c.get("rope_dim_split") else None
    layer = NeighbourhoodAttention(window, c["head_dim"], c.get("rope_base", 10000.0), split)  # type: ignore[arg-type]
    return {"out": np.asarray(jax.jit(layer.apply)({"params": params}, case.inputs["x"]))}


def _encode(case: Case) -> Outputs:
    config = VideoVAEConfig.from_official(case.config["vae"])
    params = to_tree(video_encoder_names(config), case.weights, "encoder.")
    video = crop_frames(config, channels_last(case.inputs["video"]))
    encoder = VideoEncoder(config)
    moments = jax.jit(encoder.apply, static_argnames="method")({"params": params}, video, method="moments")
    means, _ = split_moments(config, moments)
    latent = statistics.normalize(means, case_statistics(case))
    return {"latent": channels_first(latent), "conv_out": channels_first(moments)}


def _decode(case: Case) -> Outputs:
    config = VideoVAEConfig.from_official(case.config["vae"])
    params = to_tree(video_decoder_names(config), case.weights, "decoder.")
    latents = channels_last(case.inputs["latent"])
    if "noise_latent" in case.inputs:
        noise = channels_last(case.inputs["noise_latent"])
        latents = mix_decode_noise(latents, noise, case.config.get("decode_noise_scale", DECODE_NOISE_SCALE))
    latents = statistics.denormalize(latents, case_statistics(case))
    timestep = case.inputs.get("timestep")
    if timestep is None and config.timestep_conditioning and "decode_timestep" in case.config:
        timestep = np.full(latents.shape[0], case.config["decode_timestep"], np.float32)
    return {"video": _run(VideoDecoder(config), params, latents, timestep, recorded_noises(case.inputs))}


def recorded_noises(inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray] | None:
    """noise_0, noise_1, ... in this order; None where there are none."""
    numbers = sorted(int(k.removeprefix("noise_")) for k in inputs if k.removeprefix("noise_").isdigit())
    return [inputs[f"noise_{i}"] for i in numbers] or None


def _splits(case: Case) -> Outputs:
    outputs = {}
    for name in case.outputs:
        kind, numbers = _split_name(name)
        if kind == "trapezoid":
            outputs[name] = trapezoid(numbers[0], numbers[1], numbers[2], bool(numbers[3]))
        else:
            outputs[name] = _split_rows(kind, numbers, case.inputs["lengths"])
    return outputs


def _split_name(name: str) -> tuple[str, list[int]]:
    """`by_size_min2_3_1` -> ("by_size", [3, 1, 2]): the kind, its numbers, and last the minimum where there is one."""
    words = name.split("_")
    numbers = [int(w) for w in words if w.isdigit()]
    numbers += [int(w.removeprefix("min")) for w in words if w.startswith("min") and w[3:].isdigit()]
    return "_".join(w for w in words if w.isalpha()), numbers


def _split_rows(kind: str, numbers: Sequence[int], lengths: np.ndarray) -> np.ndarray:
    rows: list[tuple[int, ...]] = []
    for length in lengths.tolist():
        try:
            tiles = _SPLITS[kind](length, *numbers)
            rows += [(length, i, *dataclasses.astuple(tile)) for i, tile in enumerate(tiles)]
        except UserError:
            rows.append((length, -1, -1, -1, -1, -1))
    return np.array(rows)


_SPLITS: dict[str, Callable[..., list[Interval]]] = {
    "by_size": by_size,
    "by_count": by_count,
    "temporal_causal": lambda *a: with_sacrificial_start(by_size(*a)),
    "by_count_causal": lambda *a: with_sacrificial_start(by_count(*a)),
    "temporal_frames": temporal_frames,
}
_PLANS = {"decode": tiling.decode_plan, "encode": tiling.encode_plan, "identity": tiling.identity_plan}


def case_tiling(case: Case) -> tiling.Tiling:
    """The tiling that the config of `case` declares."""
    tiles = case.config["tiles"]
    pairs = {axis: tuple(tiles[axis]) if tiles.get(axis) else None for axis in tiling.AXES}
    return tiling.Tiling(kind=case.config["tiling"], **pairs)


def _tile_plan(case: Case) -> Outputs:
    c = case.config
    if c["op"] == "diffusion":
        plan, more = _cell_plan(case)
    elif c["op"] in _PLANS:
        factors = (c["scale_factors"][0], c["scale_factors"][1], c["scale_factors"][2])
        plan, more = _PLANS[c["op"]](case.inputs["latent_fhw"].tolist(), case_tiling(case), factors), {}
    else:
        raise UserError(f"Tile plans of the operation '{c['op']}' are not known yet.")
    outputs = {
        f"mask_{axis}_{i}": tile.mask
        for axis, tiles in zip("thw", plan.axes, strict=True)
        for i, tile in enumerate(tiles)
    }
    for name, side in (("in_coords", "source"), ("out_coords", "target")):
        rows = [[end for tile in tiles for end in getattr(tile, side)] for tiles in plan.tiles()]
        outputs[name] = np.array(rows)
    return outputs | more


def _cell_plan(case: Case) -> tuple[tiling.TilePlan, Outputs]:
    """The plan of a diffusion decoder, of which the case says what its tiles depend on."""
    said = case.config["decoder"]
    strides = [tuple(stride) for stride in said["strides"][:-1]] + [tuple(said["upsample3_stride"])]
    stages = len(strides) + 1
    config = DiffusionDecoderConfig(
        patch_size=said["patch_size"], stage_channels=(64,) * stages, upsamples=tuple((s, 1) for s in strides),
        stage_depths=(*(1,) * (stages - 2), said["stage4_depth"], said["stage5_depth"]),
        stage_kernels=(*((1, 1, 1),) * (stages - 2), tuple(said["stage4_kernel"]), (1, 1, 1)),
        stage5_kernel=tuple(said["stage5_kernel"]),
    )  # fmt: skip
    grid = config.grid(case.inputs["latent_fhw"].tolist())
    plan = tiling.cell_plan(grid, case_tiling(case), config.cell, config.tile_overlap, config.least_tile)
    return plan, {
        "tile_halos": np.array(config.halos),
        "tile_min_sizes": np.array(config.least_tile),
        "stage4_thw": np.array(grid),
        "min_overlap_t_hw": np.array(config.tile_overlap[:2]),
    }


def _tiled_decode(case: Case) -> Outputs:
    config, values = VideoVAEConfig.from_official(case.config["vae"]), case_statistics(case)
    params = to_tree(video_decoder_names(config), case.weights, "decoder.")
    decoder = VideoDecoder(config)
    decode = jax.jit(lambda z: decoder.apply({"params": params}, statistics.denormalize(z, values)))
    latents = channels_last(case.inputs["latent"])
    chunks = list(tiling.tiled_decode(decode, latents, case_tiling(case), config.decoder_factors))
    video = np.concatenate(chunks, axis=1)
    return {
        "video": channels_first(video),
        "chunk_frames": np.array([chunk.shape[1] for chunk in chunks]),
        "rgb": np.clip((video[0, :2] + 1) / 2, 0, 1),
    }


def _tiled_encode(case: Case) -> Outputs:
    config, values = VideoVAEConfig.from_official(case.config["vae"]), case_statistics(case)
    params = to_tree(video_encoder_names(config), case.weights, "encoder.")
    encoder = VideoEncoder(config)
    encode = jax.jit(lambda v: statistics.normalize(encoder.apply({"params": params}, v)[0], values))  # type: ignore
    video = channels_last(case.inputs["video"])
    results = {"latent": case_tiling(case), "untiled": None}
    return {
        name: channels_first(tiling.tiled_encode(encode, video, how, config.encoder_factors))
        for name, how in results.items()
        if name in case.outputs
    }


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "video_vae.conv": _conv,
    "video_vae.patchify": _patchify,
    "video_vae.statistics": _statistics,
    "video_vae.block.space_to_depth": _space_to_depth,
    "video_vae.block.depth_to_space": _depth_to_space,
    "video_vae.block.resnet": _resnet,
    "video_vae.block.attn": _attn,
    "video_vae.neighbourhood_attention": _neighbourhood,
    "video_vae.encode": _encode,
    "video_vae.decode": _decode,
    "video_vae.splits": _splits,
    "video_vae.tile_plan": _tile_plan,
    "video_vae.tiled_decode": _tiled_decode,
    "video_vae.tiled_encode": _tiled_encode,
}
