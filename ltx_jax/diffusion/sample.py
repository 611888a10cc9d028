"""The sampler: one compiled program that takes video and audio from noise to latents (spec sampling.md 6 and 7).

`run` is a `fori_loop` with traced bounds over padded arrays and calls nothing on the host: progress, previews and
cancelling call the same program in pieces. Letters: B batch, T tokens, C channels, U noise levels, S padded steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ltx_jax.diffusion import guidance
from ltx_jax.diffusion.conditioning import LatentState, blend, distinct_levels
from ltx_jax.diffusion.objectives import x0_from_velocity
from ltx_jax.diffusion.steppers import STEPPERS
from ltx_jax.errors import require
from ltx_jax.streams import Array, Rotary, Stream, length_mask

# (video stream, audio stream, names of the passes in their rows) -> velocities. Contexts are bound inside; the rows
# are pass-major: all samples of the first pass, then all of the second.
PredictVelocity = Callable[[Stream | None, Stream | None, tuple[str, ...]], tuple[Array | None, Array | None]]


class StreamState(struct.PyTreeNode):
    """One modality during sampling: a stream, the denoise mask of its tokens and what held tokens are held to.

    mask_levels: (B, U) float32, the distinct denoise mask values (1 = noise, 0 = held) that `stream.level_index`
    points into. clean: (B, T, C).
    """

    stream: Stream
    mask_levels: Array
    clean: Array
    frozen: bool = struct.field(pytree_node=False, default=False)

    def at(self, sigma: Array) -> Stream:
        """The stream at the schedule's scalar `sigma`; each token's level is its mask times sigma (4.4)."""
        own = jnp.zeros((), jnp.float32) if self.frozen else sigma
        batch = self.stream.latent.shape[0]
        return self.stream.replace(sigma=jnp.broadcast_to(own, (batch,)), levels=self.mask_levels * sigma)

    @property
    def mask(self) -> Array:
        """The denoise mask of every token, (B, T, 1) float32."""
        return self.stream.replace(levels=self.mask_levels).timesteps()[..., None]


class SamplerState(struct.PyTreeNode):
    """What the loop carries: one track per present modality."""

    video: StreamState | None = None
    audio: StreamState | None = None


class GuidanceScales(struct.PyTreeNode):
    """Guidance of one modality at every step; each field is (S,) float32 (6.1)."""

    cfg_scale: Array
    stg_scale: Array
    modality_scale: Array
    rescale_scale: Array


class SamplingPlan(struct.PyTreeNode):
    """What a run does: arrays padded to a common length, and the choices that shape the program.

    sigmas: (S + 1,) float32. passes: the network passes of each step. keep: (4, L, passes) float32, which attentions
    run (`guidance.keep_array`), or None where every pass runs all. batched: run the passes in one call, side by side on
    the batch axis, or else one after another (less memory, same numbers). whole_batch: see `guidance.multimodal`.
    """

    sigmas: Array
    video: GuidanceScales | None = None
    audio: GuidanceScales | None = None
    keep: Array | None = None
    passes: tuple[str, ...] = struct.field(pytree_node=False, default=("cond",))
    batched: bool = struct.field(pytree_node=False, default=True)
    whole_batch: bool = struct.field(pytree_node=False, default=False)
    stepper: str = struct.field(pytree_node=False, default="euler")


def make_track(
    state: LatentState,
    rotary: Rotary,
    cross_rotary: Rotary | None = None,
    *,
    length: Array | None = None,
    levels: int = 1,
) -> StreamState:
    """A track from a noised host state and its position tables. levels: the least U, to keep programs equal."""
    mask_levels, index = distinct_levels(state.mask, levels)
    batch, tokens, _ = state.latent.shape
    groups = None if state.groups is None else jnp.broadcast_to(jnp.asarray(state.groups), (batch, tokens))
    stream = Stream(
        latent=state.latent,
        sigma=jnp.ones((batch,), jnp.float32),
        levels=jnp.asarray(mask_levels),
        rotary=rotary,
        level_index=None if index is None else jnp.asarray(index),
        cross_rotary=cross_rotary,
        keyframes=state.keyframes,
        length=length,
        groups=groups,
        weights=state.weights,
    )
    return StreamState(stream, jnp.asarray(mask_levels), state.clean, state.frozen)


def make_plan(
    sigmas: np.ndarray,
    video: guidance.Guidance | None = None,
    audio: guidance.Guidance | None = None,
    *,
    blocks: int = 0,
    pad_to: int | None = None,
    batched: bool = True,
    whole_batch: bool = False,
    stepper: str = "euler",
) -> SamplingPlan:
    """A plan with the same guidance at every step; absent modalities have None.

    blocks: of the transformer, needed where a pass skips attentions. pad_to: steps to pad the arrays to. Raises
    UserError when a schedule does not decrease or is longer than `pad_to`, or a block that is to be skipped is lacking.
    """
    steps = len(sigmas) - 1
    total = steps if pad_to is None else pad_to
    decreasing = steps >= 1 and bool(np.all(np.diff(sigmas) < 0)) and sigmas[-1] >= 0
    require(decreasing, "The sigmas of a run must be at least two numbers that decrease and end at 0 or above.")
    require(steps <= total, f"A schedule of {steps} steps does not fit a plan of {total}.")
    require(stepper in STEPPERS, f"There is no stepper '{stepper}'; choose one of {', '.join(STEPPERS)}.")

    passes = guidance.passes(video, audio)
    keep = guidance.keep_array(passes, video, audio, blocks)

    def constant(g: guidance.Guidance | None) -> GuidanceScales | None:
        fields = ("cfg_scale", "stg_scale", "modality_scale", "rescale_scale")
        return None if g is None else GuidanceScales(*(jnp.full((total,), getattr(g, f), jnp.float32) for f in fields))

    return SamplingPlan(
        sigmas=jnp.asarray(np.pad(np.asarray(sigmas, np.float32), (0, total - steps))),
        video=constant(video),
        audio=constant(audio),
        keep=None if keep is None else jnp.asarray(keep),
        passes=passes,
        batched=batched,
        whole_batch=whole_batch,
        stepper=stepper,
    )


def run(
    predict_velocity: PredictVelocity, state: SamplerState, plan: SamplingPlan, start: Array | int, stop: Array | int
) -> SamplerState:
    """Steps [start, stop) of the plan. Steps may be traced; running in pieces gives the same bits as running whole."""

    def step(i: Array, state: SamplerState) -> SamplerState:
        sigma, sigma_next = plan.sigmas[i], plan.sigmas[i + 1]
        predictions = predict(predict_velocity, state, plan, sigma)

        def advance(
            track: StreamState | None, by_pass: dict[str, Array], scales: GuidanceScales | None
        ) -> StreamState | None:
            if track is None or track.frozen:
                return track
            x0 = _guide(track, by_pass, scales, i, plan.whole_batch)
            latent = STEPPERS[plan.stepper](track.stream.latent, blend(x0, track.clean, track.mask), sigma, sigma_next)
            return track.replace(stream=track.stream.replace(latent=latent))

        return SamplerState(
            advance(state.video, predictions[0], plan.video), advance(state.audio, predictions[1], plan.audio)
        )

    return jax.lax.fori_loop(start, stop, step, state)


def predict(
    predict_velocity: PredictVelocity, state: SamplerState, plan: SamplingPlan, sigma: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """x0 predictions of both modalities at `sigma`, by pass name; an absent modality has none (6.3)."""
    streams = [None if track is None else track.at(sigma) for track in (state.video, state.audio)]
    groups = [plan.passes] if plan.batched else [(name,) for name in plan.passes]
    found: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    for names in groups:
        velocities = predict_velocity(*(tile(s, len(names)) for s in streams), names)
        for stream, velocity, predictions in zip(streams, velocities, found, strict=True):
            if stream is not None and velocity is not None:
                for name, v in zip(names, jnp.split(velocity, len(names)), strict=True):  # each (B, T, C)
                    predictions[name] = x0_from_velocity(stream.latent, v, stream.timesteps())
    return found


def tile(stream: Stream | None, copies: int) -> Stream | None:
    """The stream repeated along the batch axis, pass-major; position tables shared by the batch stay as they are."""
    if stream is None or copies == 1:
        return stream

    def repeat(x: Array) -> Array:
        return jnp.tile(x, (copies,) + (1,) * (x.ndim - 1))

    def tables(rotary: Rotary | None) -> Rotary | None:
        if rotary is None or rotary.index.shape[0] == 1:
            return rotary
        return rotary.replace(index=repeat(rotary.index))

    rest = stream.replace(rotary=None, cross_rotary=None)
    return jax.tree.map(repeat, rest).replace(rotary=tables(stream.rotary), cross_rotary=tables(stream.cross_rotary))


def _guide(
    track: StreamState, predictions: dict[str, Array], scales: GuidanceScales | None, i: Array, whole: bool
) -> Array:
    if scales is None or len(predictions) == 1:
        return predictions["cond"]
    batch, tokens, _ = track.stream.latent.shape
    mask = length_mask(track.stream.length, batch, tokens)[..., None]
    at_step = [s[i] for s in (scales.cfg_scale, scales.stg_scale, scales.modality_scale)]
    return guidance.multimodal(predictions, *at_step, scales.rescale_scale[i], mask=mask, whole_batch=whole)
