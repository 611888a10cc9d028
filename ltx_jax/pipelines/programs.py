"""The sampling loop as a program: the sampler executes what is made here, and the planner compiles the same.

Letters: B clips, S text tokens, E width of a text context, T video tokens, A audio tokens, C channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ltx_jax.bundle import Networks, abstract_weights
from ltx_jax.diffusion.sample import SamplerState, SamplingPlan, StreamState
from ltx_jax.models.dit.config import Modality
from ltx_jax.parallel import rules
from ltx_jax.parallel.program import Program, batch_like, make_program, replicated_like
from ltx_jax.pipelines.stages import remember_texts, sample_steps

Struct = jax.ShapeDtypeStruct


def make_sample_program(
    networks: Networks,
    state: SamplerState,
    plan: SamplingPlan,
    mesh: Mesh,
    weights: Mapping[str, Any] | None = None,
) -> Program:
    """The sampling loop (state, params, contexts, plan, start, stop) -> state; the state is donated.

    state: abstract, see `abstract_state`. weights: as `abstract_weights` takes them.
    """

    def sample(
        state: SamplerState, params: Any, contexts: Any, plan: SamplingPlan, start: Any, stop: Any
    ) -> SamplerState:
        return sample_steps(networks, params, contexts, state, plan, start, stop)

    track = state.video or state.audio
    assert track is not None
    params = abstract_weights(networks, ("transformer",), mesh, weights)
    contexts = abstract_contexts(networks, track.clean.shape[0], mesh)
    step = replicated_like(np.int32(0), mesh)
    out = jax.tree.map(lambda x: x.sharding, state)
    arguments = {
        "state": state, "params": params, "contexts": contexts, "plan": replicated_like(plan, mesh), "start": step,
        "stop": step,
    }  # fmt: skip
    return make_program(sample, arguments, mesh, out_shardings=out, donate=["state"], weights=["params"])


def make_text_memory_program(
    networks: Networks, batch: int, mesh: Mesh, weights: Mapping[str, Any] | None = None
) -> Program:
    """`remember_texts` as a program (params, video, audio) of contexts (B, S, E), for models whose text is static."""

    def remember(params: Any, video: Any, audio: Any) -> Any:
        return remember_texts(networks, params, video, audio)

    params = abstract_weights(networks, ("transformer",), mesh, weights)
    video, audio = _abstract_texts(networks, batch, mesh)
    out = jax.tree.map(lambda x: x.sharding, _abstract_memory(networks, batch, mesh))
    arguments = {"params": params, "video": video, "audio": audio}
    return make_program(remember, arguments, mesh, out_shardings=out, weights=["params"])


def abstract_contexts(networks: Networks, batch: int, mesh: Mesh) -> dict[str, tuple[Any, Any]]:
    """Shapes and shardings of the positive and negative texts as the loop reads them, see `stages.Contexts`."""
    modulated = networks.release.transformer.prompt_modulation
    pair = (_abstract_texts if modulated else _abstract_memory)(networks, batch, mesh)
    return {"positive": pair, "negative": pair}


def _abstract_texts(networks: Networks, batch: int, mesh: Mesh) -> tuple[Any, Any]:
    """Contexts (B, S, E) of video and audio."""
    release, config = networks.release, networks.release.transformer
    own = config.caption_proj_before_connector
    widths = [config.stream(m).width if own else config.caption_channels for m in ("video", "audio")]
    video, audio = (Struct((batch, release.text_length, width or 0), networks.dtype) for width in widths)
    return batch_like((video, audio), mesh)


def _abstract_memory(networks: Networks, batch: int, mesh: Mesh) -> tuple[Any, Any]:
    """Keys and values (L, B, S, D) of video and audio."""
    release, config = networks.release, networks.release.transformer

    def of(modality: Modality) -> tuple[Struct, Struct]:
        shape = (config.num_layers, batch, release.text_length, config.stream(modality).width)
        sharding = NamedSharding(mesh, rules.spec(("layers", "batch", None, "act_heads"), shape, mesh))
        one = Struct(shape, networks.dtype, sharding=sharding)
        return one, one

    return of("video"), of("audio")


def abstract_state(state: SamplerState, mesh: Mesh, batch: int | None = None) -> SamplerState:
    """Shapes and shardings of a state of arrays: batch and video tokens sharded, position tables replicated.

    batch: clips, where not those of `state`.
    """

    def track(track: StreamState | None, tokens: str) -> StreamState | None:
        if track is None:
            return None
        length = track.clean.shape[1]

        def leaf(x: Any) -> Any:
            shape = (batch or x.shape[0], *x.shape[1:])
            names = ["batch", *(None,) * (len(shape) - 1)]
            if len(shape) > 1 and shape[1] == length:
                names[1] = tokens
            return Struct(shape, x.dtype, sharding=NamedSharding(mesh, rules.spec(names, shape, mesh)))

        tables = {name: replicated_like(getattr(track.stream, name), mesh) for name in ("rotary", "cross_rotary")}
        bare = track.replace(stream=track.stream.replace(rotary=None, cross_rotary=None))
        abstract = jax.tree.map(leaf, bare)
        return abstract.replace(stream=abstract.stream.replace(**tables))

    return SamplerState(track(state.video, "tokens"), track(state.audio, "tokens_replicated"))


def put(tree: Any, abstract: Any) -> Any:
    """Arrays of the host or of other shardings, placed as `abstract` says; those already there stay."""
    cast = lambda x, a: x if x.dtype == a.dtype else x.astype(a.dtype)
    tree = jax.tree.map(lambda x, a: cast(x if hasattr(x, "dtype") else np.asarray(x), a), tree, abstract)
    return jax.device_put(tree, jax.tree.map(lambda a: a.sharding, abstract))
