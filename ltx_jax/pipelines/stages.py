"""The compiled sampling of a generation as a pure function of arrays.

Letters: B clips, S text tokens, E width of a text context, T video tokens, A audio tokens, C channels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ltx_jax.bundle import Networks
from ltx_jax.diffusion.families.network import Process, find_process, predicting_x0
from ltx_jax.diffusion.sample import PredictReusing, PredictVelocity, SamplerState, SamplingPlan, run
from ltx_jax.models.dit.text import remember_text
from ltx_jax.models.dit.transformer import ADDED
from ltx_jax.streams import Context, Stream, TextMemory

Array = jax.Array
# "positive", "negative" -> texts of (video, audio): contexts (B, S, E), or what `remember_text` makes of them.
Contexts = dict[str, tuple[Any, Any]]


def velocity_predictor(networks: Networks, params: dict[str, Any], contexts: Contexts) -> PredictVelocity:
    """The transformer as the sampler wants it: contexts bound, one row group per guidance pass."""
    transformer = networks["transformer"]

    def predict(
        video: Stream | None, audio: Stream | None, names: tuple[str, ...], keep: Array | None, **options: Any
    ) -> Any:
        sides = ["negative" if name == "uncond" else "positive" for name in names]
        stream = audio if video is None else video
        assert stream is not None
        batch = stream.latent.shape[0] // len(names)
        texts = [_rows(contexts, sides, i, batch) for i in (0, 1)]
        rows = None if keep is None else jnp.repeat(keep, batch, axis=2)  # (4, L, rows)
        return transformer.apply({"params": params["transformer"]}, video, audio, *texts, rows, **options)

    return predict


def reusing_predictor(process: Process, predict: Callable[..., Any]) -> PredictReusing:
    """`velocity_predictor`'s transformer as plans want it that reuse what its blocks added."""

    def predict_x0(*arguments: Any) -> Any:
        *given, last = arguments
        changes = last

        def outputs(*arguments: Any) -> Any:
            nonlocal changes
            if last is not None:
                return predict(*arguments, added=last)
            made, left = predict(*arguments, mutable=[ADDED])
            changes = left[ADDED]["tokens"]
            return made

        return predicting_x0(process, outputs)(*given), changes

    return predict_x0


def _rows(contexts: Contexts, sides: list[str], stream: int, batch: int) -> Context:
    """The text of a stream for groups of `batch` rows that read the given sides: several rows a clip, where there are
    more rows than clips."""
    repeat = lambda x, axis: x if x.shape[axis] == batch else jnp.repeat(x, batch // x.shape[axis], axis=axis)
    if not isinstance(contexts["positive"][stream], tuple):
        return Context(jnp.concatenate([repeat(contexts[side][stream], 0) for side in sides]))
    distinct = list(dict.fromkeys(sides))
    keys, values = zip(*([repeat(x, 1) for x in contexts[side][stream]] for side in distinct), strict=True)
    return Context(None, memory=TextMemory(keys, values, tuple(distinct.index(side) for side in sides)))


def remember_texts(networks: Networks, params: dict[str, Any], video: Array, audio: Array) -> tuple[Any, Any]:
    """What blocks make of contexts (B, S, E) of both streams: pairs of keys and values (L, B, S, D)."""
    config, own, dtype = networks.release.transformer, params["transformer"], networks.dtype
    return remember_text(config, "video", own, video, dtype), remember_text(config, "audio", own, audio, dtype)


def sample_steps(
    networks: Networks,
    params: dict[str, Any],
    contexts: Contexts,
    state: SamplerState,
    plan: SamplingPlan,
    start: Array,
    stop: Array,
) -> SamplerState:
    """Steps [start, stop) of the sampler as one program; the bounds are traced."""
    process, predict = find_process(networks.release.process), velocity_predictor(networks, params, contexts)
    predicting = reusing_predictor if plan.reuses_blocks else predicting_x0
    return run(predicting(process, predict), state, plan, start, stop)
