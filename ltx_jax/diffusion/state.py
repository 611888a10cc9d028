"""What the sampler carries from step to step, and what a run of it is told.

Letters: B batch, T tokens, C channels, U noise levels, S padded steps, L blocks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import struct

from ltx_jax.diffusion.conditioning import LatentState, distinct_levels
from ltx_jax.diffusion.tiled import Tiles
from ltx_jax.streams import MODALITIES, Array, Rotary, Stream


class StreamState(struct.PyTreeNode):
    """One modality during sampling: a stream, the denoise mask of its tokens and what held tokens are held to.

    mask_levels: (B, U) float32, the distinct denoise mask values (1 = noise, 0 = held) that `stream.level_index`
    points into. clean: (B, T, C). keys: (B, 2) uint32, of the noise that some steppers add, or None. memory: arrays
    (B, T, C) by name, what a stepper or the guidance keeps of the step before.
    """

    stream: Stream
    mask_levels: Array
    clean: Array
    keys: Array | None = None
    memory: dict[str, Array] = struct.field(default_factory=dict)
    frozen: bool = struct.field(pytree_node=False, default=False)

    def at(self, sigma: Array) -> Stream:
        """The stream at the schedule's scalar `sigma`; each token's level is its mask times sigma (4.4)."""
        own = jnp.zeros((), jnp.float32) if self.frozen else sigma
        batch = self.stream.latent.shape[0]
        return self.stream.replace(sigma=jnp.broadcast_to(own, (batch,)), levels=self.mask_levels * sigma)

    @property
    def latent(self) -> Array:
        """The current tokens (B, T, C)."""
        return self.stream.latent

    @property
    def mask(self) -> Array:
        """The denoise mask of every token, (B, T, 1) float32."""
        return self.stream.replace(levels=self.mask_levels).timesteps()[..., None]

    def remembering(self, **arrays: Array) -> "StreamState":
        """The state with these arrays in its memory."""
        return self.replace(memory={**self.memory, **arrays})


class SamplerState(struct.PyTreeNode):
    """What the loop carries: one track per present modality."""

    video: StreamState | None = None
    audio: StreamState | None = None

    @property
    def tracks(self) -> dict[str, StreamState]:
        """The present modalities by name, video first."""
        return {name: track for name in MODALITIES if (track := getattr(self, name)) is not None}

    @property
    def moving(self) -> dict[str, StreamState]:
        """The present modalities that are not frozen."""
        return {name: track for name, track in self.tracks.items() if not track.frozen}

    def changed(self, change: Callable[[str, StreamState], StreamState]) -> "SamplerState":
        """The state with `change(name, track)` in the place of every present track that is not frozen."""
        return self.replace(**{name: change(name, track) for name, track in self.moving.items()})

    def moved(self, latent_of: Callable[[str, StreamState], Array]) -> "SamplerState":
        """The state with the tokens `latent_of(name, track)`, in their own type, of every track that is not frozen."""

        def move(name: str, track: StreamState) -> StreamState:
            latent = latent_of(name, track).astype(track.latent.dtype)
            return track.replace(stream=track.stream.replace(latent=latent))

        return self.changed(move)


class GuidanceScales(struct.PyTreeNode):
    """Guidance of one modality at every step: each number of `guidance.Guidance` as (S,) float32 (6.1)."""

    cfg_scale: Array
    stg_scale: Array
    modality_scale: Array
    rescale_scale: Array
    eta: Array
    norm_threshold: Array
    momentum: Array
    rule: str = struct.field(pytree_node=False, default="cfg")


@dataclasses.dataclass(frozen=True)
class Call:
    """What a step asks of the network: in which passes, and which modalities get a new prediction.

    The others are carried along as context of the first ones, and keep their last guided x0 (6.4). reuses: the
    transformer's blocks are not run but taken to add to the tokens what they added last.
    """

    passes: tuple[str, ...] = ("cond",)
    runs: tuple[str, ...] = MODALITIES
    reuses: bool = False


class SamplingPlan(struct.PyTreeNode):
    """What a run does: arrays padded to a common length, and the choices that shape the program.

    sigmas: (S + 1,) float32. video, audio: strengths of their guidance. options: numbers of the stepper, () float32.
    coefficients: of the stepper, (S,) float32 by name. tiles: in which the network sees the video, None for the whole.
    calls: the kinds of steps that there are; call: (S,) int32, which of them each step is. keep: of each call
    (4, L, passes) float32, which attentions run (`guidance.keep_array`), or None where every pass runs all. batched:
    run the passes in one call, side by side on the batch axis, or else one after another (less memory, same numbers).
    whole_batch: see `guidance.multimodal`. reuses_text: some steps are guided by the difference between
    the texts that an earlier one found.
    """

    sigmas: Array
    call: Array
    video: GuidanceScales | None = None
    audio: GuidanceScales | None = None
    keep: tuple[Array | None, ...] = (None,)
    options: dict[str, Array] = struct.field(default_factory=dict)
    coefficients: dict[str, Array] = struct.field(default_factory=dict)
    tiles: Tiles | None = None
    calls: tuple[Call, ...] = struct.field(pytree_node=False, default=(Call(),))
    batched: bool = struct.field(pytree_node=False, default=True)
    whole_batch: bool = struct.field(pytree_node=False, default=False)
    stepper: str = struct.field(pytree_node=False, default="euler")
    reuses_text: bool = struct.field(pytree_node=False, default=False)

    @property
    def reuses_blocks(self) -> bool:
        """Whether any step takes what the transformer's blocks added in an earlier one."""
        return any(call.reuses for call in self.calls)

    @property
    def skips(self) -> bool:
        """Whether any step lets a modality keep the prediction of the step before."""
        return len({call.runs for call in self.calls}) > 1

    def at(self, i: Any) -> tuple[Array, Array]:
        """The noise levels at step i and after it."""
        return self.sigmas[i], self.sigmas[i + 1]


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
    return StreamState(stream, jnp.asarray(mask_levels), state.clean, frozen=state.frozen)


def tile(stream: Stream | None, copies: int) -> Stream | None:
    """The stream repeated along the batch axis, pass-major; position tables shared by the batch stay as they are."""
    if stream is None or copies == 1:
        return stream
    return stream.with_rows(lambda x: jnp.tile(x, (copies,) + (1,) * (x.ndim - 1)))
