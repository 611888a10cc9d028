"""The compiled sampling of a generation as a pure function of arrays.

Letters: B clips, S text tokens, E width of a text context, T video tokens, A audio tokens, C channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.bundle import Networks
from ltx_jax.diffusion.sample import PredictVelocity, SamplerState, SamplingPlan, run
from ltx_jax.streams import Context, Stream

Array = jax.Array
Contexts = dict[str, tuple[Array, Array]]  # "positive", "negative" -> (video, audio) contexts (B, S, E)


def velocity_predictor(
    networks: Networks, params: dict[str, Any], contexts: Contexts, plan: SamplingPlan
) -> PredictVelocity:
    """The transformer as the sampler wants it: contexts bound, one row group per guidance pass."""
    transformer = networks["transformer"]

    def predict(video: Stream | None, audio: Stream | None, names: tuple[str, ...]) -> Any:
        sides = ["negative" if name == "uncond" else "positive" for name in names]
        texts = [Context(jnp.concatenate([contexts[s][i] for s in sides])) for i in (0, 1)]
        batch = contexts["positive"][0].shape[0]
        columns = np.array([plan.passes.index(name) for name in names])
        keep = None if plan.keep is None else jnp.repeat(plan.keep[:, :, columns], batch, axis=2)  # (4, L, rows)
        return transformer.apply({"params": params["transformer"]}, video, audio, *texts, keep)

    return predict


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
    return run(velocity_predictor(networks, params, contexts, plan), state, plan, start, stop)
