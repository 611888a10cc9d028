"""From clean tokens to what the transformer sees and should answer, as a mode says (spec training.md 3.3 to 3.5).

Everything here is arrays and may be jitted; all random draws are arguments. A batch of several modes computes the
stream of every mode and picks one per sample, so that one program serves any mixture. Letters: B batch, T target
tokens, R reference tokens, C channels, U noise levels.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ltx_jax.diffusion.conditioning import Grid
from ltx_jax.diffusion.objectives import SigmaConfig, add_noise, sample_sigma, velocity_target
from ltx_jax.rng import named_key, normal
from ltx_jax.streams import length_mask
from ltx_jax.training.modes import APPENDED, StreamMode

Array = jax.Array


class Draws(struct.PyTreeNode):
    """All randomness of one stream: normal, uniform, mix (B,); noise (B, T, C); conditions: (B,) each, by number."""

    normal: Array
    uniform: Array
    mix: Array
    noise: Array
    conditions: tuple[Array, ...] = ()


class NoisyStream(struct.PyTreeNode):
    """A stream as the transformer gets it, and what it should answer.

    latent: (B, T + R, C), the target's tokens, then the reference's. sigma (B,); levels (B, U) with level_index
    (B, T + R) into them, None when U = 1. length: (B,) tokens that are real, None for all. targets (B, T, C) and
    loss_mask (B, T) bool, None for a frozen stream. place: (B, T + R) int32, where each token stands among all the
    positions that the rotary tables know, None for one after the other. present: (B,) bool, False where the sample's
    mode has no such stream, None for everywhere.
    """

    latent: Array
    sigma: Array
    levels: Array
    level_index: Array | None = None
    length: Array | None = None
    targets: Array | None = None
    loss_mask: Array | None = None
    place: Array | None = None
    present: Array | None = None


class KeyFrames(struct.PyTreeNode):
    """Stills of each clip. tokens: (B, K * n, C), n of each still; frames: (B, K) int32, which pixel frames they are.

    first: the place of frame 0's still among the positions that the rotary tables know; the others' follow in order.
    """

    tokens: Array
    frames: Array
    first: int = struct.field(pytree_node=False)


def draw(keys: Array, conditions: int, tokens: int, channels: int) -> Draws:
    """Draws for a batch from one key per sample (B,), so that batch size and mesh do not change them.

    conditions: how many may be drawn. Use different keys for video and audio.
    """

    def one(key: Array) -> Draws:
        return Draws(
            normal=normal(named_key(key, "normal"), ()),
            uniform=jax.random.uniform(named_key(key, "uniform")),
            mix=jax.random.uniform(named_key(key, "mix")),
            noise=normal(named_key(key, "noise"), (tokens, channels)),
            conditions=tuple(jax.random.uniform(named_key(key, "condition", i)) for i in range(conditions)),
        )

    return jax.vmap(one)(keys)


def draw_masks(keys: Array, grid: Grid) -> Array:
    """Masks (B, T) float32 for inpainting, 1 = given: all but a box of a quarter to three quarters of each side.

    The box spans rows and columns through all frames, or frames where the grid has neither (audio). keys: (B,).
    """
    sides = grid[1:] if max(grid[1:]) > 1 else grid[:1]

    def inside(key: Array, size: int) -> Array:
        extent, start = jax.random.uniform(key, (2,))
        length = jnp.maximum(1, jnp.round((0.25 + 0.5 * extent) * size))
        first = jnp.floor(start * (size - length + 1))
        return (jnp.arange(size) >= first) & (jnp.arange(size) < first + length)

    def one(key: Array) -> Array:
        hits = [inside(named_key(key, "side", i), size) for i, size in enumerate(sides)]
        box = hits[0] if len(hits) == 1 else jnp.tile((hits[0][:, None] & hits[1]).reshape(-1), grid[0])
        return (~box).astype(jnp.float32)  # (T,)

    return jax.vmap(one)(keys)


def noise_stream(
    mode: StreamMode,
    x0: Array,
    draws: Draws | None,
    grid: Grid,
    *,
    sigmas: SigmaConfig = SigmaConfig(),
    scale: tuple[int, int] = (32, 32),
    masks: Mapping[str, Array] | None = None,
    reference: Array | None = None,
    keyframes: KeyFrames | None = None,
    length: Array | None = None,
    sigma: Array | None = None,
) -> NoisyStream:
    """Noise clean tokens x0 (B, T, C) of a latent grid (audio: (A, 1, 1)) as the mode says.

    draws: may be None where nothing is drawn (a frozen stream with nothing beside it). scale: pixels per latent cell,
    (height, width). masks: stored masks (B, T) by the `mask_dir` of their condition. reference: clean tokens
    (B, R, C) of a `reference` condition. keyframes: of a condition of that name. length: (B,) real target tokens where
    the tail is padding, which is in no loss and does not count for the sigmas. sigma: (B,), in place of a drawn one.
    """
    if mode.is_generated:
        assert draws is not None
        noisy = _noised(mode, x0, draws, grid, sigmas, scale, masks, length, sigma)
    else:
        zero = jnp.zeros((x0.shape[0],), jnp.float32)
        noisy = NoisyStream(x0, zero, zero[:, None], length=length)
    beside = mode.reference or mode.keyframes
    if beside is None:
        return noisy
    assert draws is not None
    drawn = draws.conditions[mode.conditions.index(beside)]
    if beside is mode.keyframes:
        assert keyframes is not None
        return _with_keyframes(noisy, keyframes, drawn, beside.probability)
    assert reference is not None
    return _appended(noisy, reference, reference.shape[1] * (drawn < beside.probability))


def _noised(
    mode: StreamMode,
    x0: Array,
    draws: Draws,
    grid: Grid,
    sigmas: SigmaConfig,
    scale: tuple[int, int],
    masks: Mapping[str, Array] | None,
    length: Array | None,
    sigma: Array | None,
) -> NoisyStream:
    """A generated stream (3.3, 3.4); arguments as of `noise_stream`."""
    batch, tokens, _ = x0.shape
    if sigma is None:
        count = tokens if length is None else length
        sigma = sample_sigma(sigmas, count, draws.normal, draws.uniform, draws.mix)
    intrinsic = [(i, c) for i, c in mode.active if c.type not in APPENDED]
    given = jnp.zeros((batch, tokens), bool)
    for i, condition in intrinsic:
        selected = jnp.asarray(condition.selected(grid, scale, (masks or {}).get(condition.mask_dir or "")))
        given |= (draws.conditions[i] < condition.probability)[:, None] & selected
    x0 = x0.astype(jnp.float32)
    noisy = NoisyStream(
        latent=jnp.where(given[..., None], x0, add_noise(x0, draws.noise, sigma)),
        sigma=sigma,
        levels=sigma[:, None],
        length=length,
        targets=velocity_target(x0, draws.noise),
        loss_mask=length_mask(length, batch, tokens) & ~given,
    )
    return _two_levels(noisy, given) if intrinsic else noisy


def _two_levels(noisy: NoisyStream, given: Array) -> NoisyStream:
    """The stream with the levels (sigma, 0), of which the given tokens (B, T) have the second."""
    levels = jnp.stack([noisy.sigma, jnp.zeros_like(noisy.sigma)], axis=1)  # (B, 2)
    return noisy.replace(levels=levels, level_index=given.astype(jnp.int32))


def _with_keyframes(noisy: NoisyStream, keys: KeyFrames, drawn: Array, probability: float) -> NoisyStream:
    """The stream with the first one to K stills of each clip behind it, in a share `probability` of the samples.

    drawn: (B,) uniform, which decides on both.
    """
    batch, tokens, _ = noisy.latent.shape
    stills = keys.frames.shape[1]
    each = keys.tokens.shape[1] // stills
    used = 1 + jnp.floor(drawn / max(probability, 1e-6) * stills).astype(jnp.int32)  # (B,) 1 .. K
    places = keys.first + keys.frames[:, :, None] * each + jnp.arange(each)  # (B, K, n)
    own = jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))
    noisy = _appended(noisy, keys.tokens, each * used * (drawn < probability))
    place = jnp.concatenate([own, places.reshape(batch, -1)], axis=1)
    return noisy.replace(place=place)


def _appended(noisy: NoisyStream, beside: Array, used: Array) -> NoisyStream:
    """The stream with clean tokens (B, R, C) behind the target's, of which the first `used` (B,) are real (3.5).

    The reference program draws once per batch and changes the sequence; here every sample draws, and what it does not
    use it carries as padding.
    """
    batch, tokens, _ = noisy.latent.shape
    if noisy.level_index is None:
        noisy = _two_levels(noisy, jnp.zeros((batch, tokens), bool))
    assert noisy.level_index is not None and noisy.length is None
    clean = jnp.ones((batch, beside.shape[1]), jnp.int32)
    return noisy.replace(
        latent=jnp.concatenate([noisy.latent, beside.astype(noisy.latent.dtype)], axis=1),
        level_index=jnp.concatenate([noisy.level_index, clean], axis=1),
        length=tokens + used.astype(jnp.int32),
    )


# --- mixtures -------------------------------------------------------------------------------------------------------


def choose(keys: Array, weights: Sequence[float]) -> Array:
    """The mode of every sample, int32 (B,), drawn in proportion to `weights` from one key per sample."""
    bounds = np.cumsum(np.asarray(weights, np.float64) / sum(weights))[:-1].astype(np.float32)
    drawn = jax.vmap(jax.random.uniform)(keys)  # (B,)
    return jnp.sum(drawn[:, None] >= jnp.asarray(bounds), axis=1).astype(jnp.int32)


def mix(streams: Sequence[NoisyStream | None], choice: Array) -> NoisyStream | None:
    """One stream per sample out of the streams of all modes, by `choice` (B,); None when no mode has the stream.

    Where a sample's mode lacks the stream its tokens are zeros at sigma 0, in no loss, and `present` is False; the
    other stream must not look at them.
    """
    some = [s for s in streams if s is not None]
    if not some:
        return None
    longest = max(some, key=lambda s: s.latent.shape[1])
    trained = next((s for s in some if s.targets is not None), None)
    padded = any(s.length is not None or s.latent.shape != longest.latent.shape for s in some)
    forms = [_general(s, longest, trained, padded) for s in streams]
    if any(s.place is not None for s in some):
        forms = [_placed(form) for form in forms]

    def pick(*leaves: Array) -> Array:
        result = leaves[0]
        for i, leaf in enumerate(leaves[1:], 1):
            result = jnp.where((choice == i).reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, result)
        return result

    return jax.tree.map(pick, *forms)


def _placed(stream: NoisyStream) -> NoisyStream:
    """The stream with a place of its own for every token."""
    batch, tokens, _ = stream.latent.shape
    one_by_one = jnp.broadcast_to(jnp.arange(tokens), (batch, tokens))
    return stream.replace(place=one_by_one if stream.place is None else stream.place)


def _general(
    stream: NoisyStream | None, longest: NoisyStream, trained: NoisyStream | None, padded: bool
) -> NoisyStream:
    """A stream in the form that all modes share: two levels, the longest one's tokens, the same fields."""
    batch, tokens, channels = longest.latent.shape
    present = jnp.full((batch,), stream is not None)
    if stream is None:
        zero = jnp.zeros((batch,), jnp.float32)
        stream = NoisyStream(jnp.zeros((batch, tokens, channels), jnp.float32), zero, zero[:, None])
    if stream.level_index is None:
        stream = _two_levels(stream, jnp.zeros(stream.latent.shape[:2], bool))
    assert stream.level_index is not None
    count = stream.latent.shape[1]
    missing = ((0, 0), (0, tokens - count))
    targets, mask = stream.targets, stream.loss_mask
    if trained is not None and targets is None:
        targets, mask = jax.tree.map(jnp.zeros_like, (trained.targets, trained.loss_mask))
    return NoisyStream(
        latent=jnp.pad(stream.latent.astype(jnp.float32), (*missing, (0, 0))),
        sigma=stream.sigma,
        levels=stream.levels,
        level_index=jnp.pad(stream.level_index, missing),
        length=jnp.full((batch,), count, jnp.int32) if padded and stream.length is None else stream.length,
        targets=targets,
        loss_mask=mask,
        place=None if stream.place is None else jnp.pad(stream.place, missing),
        present=present,
    )
