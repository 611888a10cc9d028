"""Recorded cases of the video VAE (spec video_vae.md). Recordings are channels-first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.checkpoints.names import to_tree
from ltx_jax.checkpoints.names.video_vae import (
    attn_names, conv_names, resnet_names, video_decoder_names, video_encoder_names,
)  # fmt: skip
from ltx_jax.conformance.case import Case
from ltx_jax.models.video_vae import statistics
from ltx_jax.models.video_vae.blocks import AttnBlock, DepthToSpaceUpsample, ResnetBlock, SpaceToDepthDownsample
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.models.video_vae.conv import CausalConv3d
from ltx_jax.models.video_vae.decoder import DECODE_NOISE_SCALE, VideoDecoder, mix_decode_noise
from ltx_jax.models.video_vae.encoder import VideoEncoder, crop_frames, split_moments
from ltx_jax.models.video_vae.layers import Settings, patchify, unpatchify

Outputs = dict[str, np.ndarray]
Params = Mapping[str, Any]


def channels_last(x: np.ndarray) -> jax.Array:
    """(B, C, F, H, W) -> (B, F, H, W, C)."""
    return jnp.asarray(x).transpose(0, 2, 3, 4, 1)


def channels_first(x: Any) -> np.ndarray:
    """(B, F, H, W, C) -> (B, C, F, H, W)."""
    return np.asarray(x).transpose(0, 4, 1, 2, 3)


def case_statistics(case: Case, prefix: str = "per_channel_statistics.") -> statistics.Statistics:
    """The statistics among the weights of `case`; mean 0 and std 1 where it has none (section 2)."""
    mean = case.weights.get(f"{prefix}mean-of-means")
    if mean is None:
        channels = VideoVAEConfig.from_official(case.config["vae"]).latent_channels
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


def _encode(case: Case) -> Outputs:
    config = VideoVAEConfig.from_official(case.config["vae"])
    params = to_tree(video_encoder_names(config), case.weights, "encoder.")
    video = crop_frames(config, channels_last(case.inputs["video"]))
    moments = jax.jit(VideoEncoder(config).apply, static_argnames="method")({"params": params}, video, method="moments")
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
    return {"video": _run(VideoDecoder(config), params, latents, timestep, _noises(case.inputs))}


def _noises(inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray] | None:
    """noise_1, noise_2, ... in this order."""
    numbers = sorted(int(k.removeprefix("noise_")) for k in inputs if k.removeprefix("noise_").isdigit())
    return [inputs[f"noise_{i}"] for i in numbers] or None


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "video_vae.conv": _conv,
    "video_vae.patchify": _patchify,
    "video_vae.statistics": _statistics,
    "video_vae.block.space_to_depth": _space_to_depth,
    "video_vae.block.depth_to_space": _depth_to_space,
    "video_vae.block.resnet": _resnet,
    "video_vae.block.attn": _attn,
    "video_vae.encode": _encode,
    "video_vae.decode": _decode,
}
