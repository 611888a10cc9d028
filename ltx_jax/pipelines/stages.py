"""The compiled stages of a generation after the encoders: sampling and decoding, pure functions of arrays.

Letters: B clips, S text tokens, E width of a text context, T video tokens, A audio tokens, C channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.bundle import Modules
from ltx_jax.diffusion.geometry import unpatchify_audio, unpatchify_video
from ltx_jax.diffusion.sample import PredictVelocity, SamplerState, SamplingPlan, run
from ltx_jax.models import latents as video_statistics
from ltx_jax.models.audio_vae import statistics as audio_statistics
from ltx_jax.streams import Context, Stream

Array = jax.Array
Contexts = dict[str, tuple[Array, Array]]  # "positive", "negative" -> (video, audio) contexts (B, S, E)


def velocity_predictor(
    modules: Modules, params: dict[str, Any], contexts: Contexts, plan: SamplingPlan
) -> PredictVelocity:
    """The transformer as the sampler wants it: contexts bound, one row group per guidance pass."""
    transformer = modules["transformer"]

    def predict(video: Stream | None, audio: Stream | None, names: tuple[str, ...]) -> Any:
        sides = ["negative" if name == "uncond" else "positive" for name in names]
        texts = [Context(jnp.concatenate([contexts[s][i] for s in sides])) for i in (0, 1)]
        batch = contexts["positive"][0].shape[0]
        columns = np.array([plan.passes.index(name) for name in names])
        keep = None if plan.keep is None else jnp.repeat(plan.keep[:, :, columns], batch, axis=2)  # (4, L, rows)
        return transformer.apply({"params": params["transformer"]}, video, audio, *texts, keep)

    return predict


def sample_steps(
    modules: Modules,
    params: dict[str, Any],
    contexts: Contexts,
    state: SamplerState,
    plan: SamplingPlan,
    start: Array,
    stop: Array,
) -> SamplerState:
    """Steps [start, stop) of the sampler as one program; the bounds are traced."""
    return run(velocity_predictor(modules, params, contexts, plan), state, plan, start, stop)


def decode_video(modules: Modules, params: dict[str, Any], tokens: Array, grid: tuple[int, int, int]) -> Array:
    """uint8 pixels (B, F, h, w, 3) of normalised latent tokens (B, T, C) on the latent `grid`; padding is cut."""
    latents = unpatchify_video(tokens[:, : grid[0] * grid[1] * grid[2]], *grid)
    latents = video_statistics.denormalize(latents, params["video_statistics"])
    pixels: Any = modules["video_decoder"].apply({"params": params["video_decoder"]}, latents)
    return jnp.round(jnp.clip((pixels + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def decode_audio(modules: Modules, params: dict[str, Any], tokens: Array) -> Array:
    """Waveform (B, 2, samples) float32 in [-1, 1] of normalised audio tokens (B, A, C)."""
    decoder = modules["audio_decoder"]
    latents = unpatchify_audio(tokens, decoder.config.z_channels)  # type: ignore[attr-defined]  # (B, A, f, Z)
    latents = audio_statistics.denormalize(latents, params["audio_statistics"])
    mel = decoder.apply({"params": params["audio_decoder"]}, latents)
    return modules["vocoder"].apply({"params": params["vocoder"]}, mel).astype(jnp.float32)
