"""Recorded cases of the latent upsamplers (spec video_vae.md section 9). Recordings are channels-first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ltx_jax.conformance.case import Case
from ltx_jax.conformance.video_vae import Outputs, case_statistics, channels_first, channels_last
from ltx_jax.models import latents as statistics
from ltx_jax.models.upsampler import LatentUpsampler, UpsamplerConfig
from ltx_jax.models.video_vae.layers import GroupNorm
from ltx_jax.names import to_tree
from ltx_jax.names.upsampler import norm_names, upsampler_names


def _upsampler(case: Case) -> Outputs:
    config = UpsamplerConfig.from_official(case.config)
    params = to_tree(upsampler_names(config), case.weights)
    network = jax.jit(lambda x: LatentUpsampler(config).apply({"params": params}, x))
    latent = channels_last(case.inputs["latent"])
    values = case_statistics(case, "vae.per_channel_statistics.", config.in_channels)
    return {
        "raw": channels_first(network(latent)),
        "normalized_latent": channels_first(statistics.through(network, latent, values)),
    }


def _group_norm(case: Case) -> Outputs:
    c, params = case.config, to_tree(norm_names("", ()), case.weights)
    norm = GroupNorm(c["num_groups"], eps=c.get("eps", 1e-5))
    return {"out": channels_first(norm.apply({"params": params}, channels_last(case.inputs["x"])))}


def _wrap(case: Case) -> Outputs:
    """The upsampler's stand-in: rows and columns twice, then u + u^2 / 10."""

    def stand_in(x: jax.Array) -> jax.Array:
        u = x.repeat(2, axis=2).repeat(2, axis=3)
        return u + 0.1 * u * u

    values = {name: jnp.asarray(case.inputs[name]) for name in ("mean", "std")}
    return {"latent": channels_first(statistics.through(stand_in, channels_last(case.inputs["latent"]), values))}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "upsampler.spatial": _upsampler,
    "upsampler.temporal": _upsampler,
    "upsampler.group_norm": _group_norm,
    "diffusion.upsample_wrap": _wrap,
}
