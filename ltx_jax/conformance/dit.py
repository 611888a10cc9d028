"""Recorded cases of the transformer (spec transformer.md). Recordings carry a level, a position and a mask per token
pair, heads before tokens; everything is turned here into what the library takes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.kernels.prologue import rotate
from ltx_jax.kernels.spec import Mask
from ltx_jax.models.dit.block import Attention, Block, StreamInputs
from ltx_jax.models.dit.config import DiTConfig, ModelType
from ltx_jax.models.dit.rope import gather_tables, rotary, rotary_tables
from ltx_jax.models.dit.transformer import AdaLN, DiT, timestep_embedding
from ltx_jax.names import linear, to_tree
from ltx_jax.names.dit import attention_names, dit_names
from ltx_jax.streams import MODALITIES, Context, Stream

Outputs = dict[str, np.ndarray]
# The reference's audio-only builder ignores these keys and takes their defaults (spec section 11).
AUDIO_BUILDER_IGNORES = ("positional_embedding_theta", "use_prompt_adaln_single", "audio_ff_bias")


def _rope(case: Case) -> Outputs:
    c = case.config
    heads, split = c["num_attention_heads"], c.get("rope_type", "split") == "split"
    precision = "float64" if c.get("frequencies_precision") == "float64" else "float32"
    tables = rotary(
        case.inputs["positions"], c["dim"], tuple(c["max_pos"]), c.get("positional_embedding_theta", 10000.0),
        precision, c.get("use_middle_indices_grid", True),
    )  # fmt: skip
    cos, sin = gather_tables(tables, heads, c["dim"] // heads)  # (B or 1, T, N, K/2)
    batch = case.inputs["positions"].shape[0]
    outputs = {}
    if "x" in case.inputs:
        x = jnp.asarray(case.inputs["x"])
        outputs["rotated"] = rotate(x.reshape(*x.shape[:2], heads, -1), (cos, sin), "split" if split else "interleaved")
        outputs["rotated"] = outputs["rotated"].reshape(x.shape)  # (B, T, N*K)
    for name, table in (("cos", cos), ("sin", sin)):
        table = np.broadcast_to(np.asarray(table), (batch, *table.shape[1:]))
        flat = table.reshape(*table.shape[:2], -1).repeat(2, axis=-1)  # (B, T, N*K), interleaved pairs
        outputs[name] = table.transpose(0, 2, 1, 3) if split else flat
    return outputs


def _timestep_embedding(case: Case) -> Outputs:
    c, shape = case.config, case.inputs["timesteps"].shape
    names = [
        *linear("emb.timestep_embedder.linear_1", ("linear_1",)),
        *linear("emb.timestep_embedder.linear_2", ("linear_2",)),
        *linear("linear", ("linear",)),
    ]
    t = case.inputs["timesteps"].reshape(1, -1) * np.float32(c.get("timestep_scale_multiplier", 1000))
    module = AdaLN(c["dim"], c["embedding_coefficient"])
    results: Any = module.apply({"params": to_tree(names, case.weights)}, jnp.asarray(t))
    found = {"sinusoid": timestep_embedding(jnp.asarray(t)), "modulation": results[0], "embedded_timestep": results[1]}
    return {name: np.asarray(x).reshape(*shape, -1) for name, x in found.items()}


def _tables(inputs: Mapping[str, np.ndarray], prefix: str, heads: int) -> tuple[jax.Array, jax.Array] | None:
    """Recorded tables, split (B, N, T, K/2) or interleaved (B, T, N*K), as (B, T, N, K/2)."""
    if f"{prefix}cos" not in inputs:
        return None
    cos, sin = (jnp.asarray(inputs[f"{prefix}{part}"]) for part in ("cos", "sin"))
    if cos.ndim == 3:
        cos, sin = (t[..., ::2].reshape(*t.shape[:2], heads, -1) for t in (cos, sin))
        return cos, sin
    return cos.transpose(0, 2, 1, 3), sin.transpose(0, 2, 1, 3)


def _attention(case: Case) -> Outputs:
    c, i = case.config, case.inputs
    gated = bool(c.get("apply_gated_attention", False))
    module = Attention(
        c["query_dim"], c["context_dim"], c["heads"], c["dim_head"], c.get("norm_eps", 1e-6), gated,
        c.get("rope_type", "split"),
    )  # fmt: skip
    params = to_tree(attention_names("self", (), gated), {f"self.{k}": v for k, v in case.weights.items()})
    bias = jnp.asarray(i["bias"]) if "bias" in i else None
    y = jax.jit(module.apply)(
        {"params": params}, i["x"], i.get("context"), Mask(bias=bias),
        _tables(i, "q_", c["heads"]), _tables(i, "k_", c["heads"]), i.get("keep"),
    )  # fmt: skip
    return {"y": np.asarray(y)}


def _block(case: Case) -> Outputs:
    transformer = {**case.config["transformer"], "num_layers": 1}
    # The block has no caption projections: its recording need not say where they are.
    transformer.setdefault("caption_channels", 1)
    config, inputs = DiTConfig.from_official(transformer), {}
    for m in MODALITIES:
        i = {k.removeprefix(f"{m}_"): v for k, v in case.inputs.items() if k.startswith(f"{m}_")}
        width, tokens = config.stream(m).width, i["x"].shape[1]
        rows = lambda name, i=i, width=width: jnp.asarray(i[name].reshape(*i[name].shape[:2], -1, width))
        shared = i["modulation"].shape[1] == 1
        index = None if shared else jnp.broadcast_to(jnp.arange(tokens), i["x"].shape[:2])
        inputs[m] = StreamInputs(
            rows("modulation"), index, jnp.asarray(i["context"]), _tables(i, "", config.stream(m).heads),  # type: ignore[arg-type]
            prompt_modulation=rows("prompt_modulation")[:, 0] if "prompt_modulation" in i else None,
            cross_modulation=rows("cross_modulation"), cross_gate=jnp.asarray(i["cross_gate"])[:, 0],
            cross_rope=_tables(i, "cross_", config.stream("audio").heads),
        )  # fmt: skip
    names = [n for n in dit_names(config) if n.path[0] == "blocks"]
    params = to_tree(names, {f"transformer_blocks.0.{k}": v for k, v in case.weights.items()})["blocks"]
    params = jax.tree.map(lambda stacked: stacked[0], params)
    x = tuple(jnp.asarray(case.inputs[f"{m}_x"]) for m in MODALITIES)
    (v, a), _ = jax.jit(Block(config).apply)({"params": params}, x, (inputs["video"], inputs["audio"]))
    return {"video_x": v, "audio_x": a}


def self_attention_bias(weights: np.ndarray | None) -> jax.Array | None:
    """Weights (B, T or 1, S) in [0, 1] of query-key pairs as an additive bias with a head axis (spec 4.5)."""
    if weights is None:
        return None
    info = np.finfo(np.float32)
    bias = np.where(weights > 0, np.log(np.maximum(weights, info.tiny)), info.min).astype(np.float32)
    return jnp.asarray(bias[:, None])  # (B, 1, T or 1, S)


def context_bias(mask: np.ndarray | None) -> jax.Array | None:
    """A text mask as an additive bias: integers (B, S) or (B, T, S), 1 = attend, or numbers that are additive."""
    if mask is None:
        return None
    if np.issubdtype(mask.dtype, np.integer):
        mask = (mask - 1).astype(np.float32) * np.finfo(np.float32).max
        return jnp.asarray(mask[:, None, None] if mask.ndim == 2 else mask[:, None])  # (B, 1, 1 or T, S)
    return jnp.asarray({2: mask[None, None], 3: mask[:, None]}.get(mask.ndim, mask) if mask.ndim < 4 else mask)


def stream_from_recording(inputs: Mapping[str, np.ndarray], tables: Mapping[str, Any], modality: str) -> Stream:
    """The `Stream` of recorded inputs: a level per token unless the recording has one per sample."""
    i: dict[str, Any] = {k.removeprefix(f"{modality}_"): v for k, v in inputs.items() if k.startswith(f"{modality}_")}
    levels = i["timesteps"].reshape(i["timesteps"].shape[:2])  # (B, T or 1)
    batch, tokens = np.shape(i["latent"])[:2]
    shared = levels.shape[1] == 1
    keyframes = i.get("keyframes_mask")
    return Stream(
        latent=jnp.asarray(i["latent"]),
        sigma=jnp.asarray(i["sigma"]),
        levels=jnp.asarray(levels),
        level_index=None if shared else jnp.broadcast_to(jnp.arange(tokens), (batch, tokens)),
        rotary=tables[modality],
        cross_rotary=tables[f"{modality}_cross"],
        keyframes=None if keyframes is None else jnp.asarray(keyframes.reshape(batch, tokens) > 0),
        bias=self_attention_bias(i.get("attention_mask")),
    )


def config_from_recording(transformer: Mapping[str, Any], model_type: ModelType) -> DiTConfig:
    """The reference's reading of `config.transformer`."""
    ignored = AUDIO_BUILDER_IGNORES if model_type == "audio" else ()
    return DiTConfig.from_official({k: v for k, v in transformer.items() if k not in ignored}, model_type)


def _forward(case: Case) -> Outputs:
    i = case.inputs
    config = config_from_recording(case.config["transformer"], case.config.get("model_type", "av"))
    tables = rotary_tables(config, i.get("video_positions"), i.get("audio_positions"))
    given = [m for m in MODALITIES if f"{m}_latent" in i]
    enabled = lambda m: bool(case.config.get(f"{m}_enabled", True))
    streams = {m: stream_from_recording(i, tables, m).replace(enabled=enabled(m)) for m in given}
    contexts = {m: Context(jnp.asarray(i[f"{m}_context"]), context_bias(i.get(f"{m}_context_mask"))) for m in given}
    params = to_tree(dit_names(config), case.weights)

    def forward(params, streams, contexts, keep):
        pairs = [*(streams.get(m) for m in MODALITIES), *(contexts.get(m) for m in MODALITIES)]
        return DiT(config).apply({"params": params}, *pairs, keep)

    velocities = jax.jit(forward)(params, streams, contexts, i.get("perturbation_keep"))
    outputs = {}
    for m, velocity in zip(MODALITIES, velocities, strict=True):
        if velocity is not None:
            outputs[f"{m}_velocity"] = velocity
            if velocity.shape == streams[m].latent.shape:  # else what comes out is of another kind than what goes in
                outputs[f"{m}_x0"] = streams[m].latent - velocity * streams[m].timesteps()[..., None]
    return outputs


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "dit.rope": _rope,
    "dit.timestep_embedding": _timestep_embedding,
    "dit.attention": _attention,
    "dit.block": _block,
    "dit.forward": _forward,
}
