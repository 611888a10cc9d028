"""The names that diffusers gives to modules and tensors (spec transformer.md 16.1, video_vae.md 10), both ways."""

import re
from collections.abc import Iterable, Mapping

from ltx_jax.errors import UserError

Thirds = dict[str, tuple[str, ...]]  # an official name and those of diffusers, three where a projection is cut in three

# Whole path components of the transformer: diffusers -> official.
TRANSFORMER = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
    "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
    "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
# The same of the connectors, below the prefix `connectors.`.
CONNECTORS = {
    "video_connector": "video_embeddings_connector",
    "audio_connector": "audio_embeddings_connector",
    "transformer_blocks": "transformer_1d_blocks",
    "text_proj_in": "text_embedding_projection.aggregate_embed",
    "video_text_proj_in": "text_embedding_projection.video_aggregate_embed",
    "audio_text_proj_in": "text_embedding_projection.audio_aggregate_embed",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}
_VIDEO_VAE = {
    "resnets": "res_blocks",
    "decoder.time_embedder": "decoder.last_time_embedder",
    "decoder.scale_shift_table": "decoder.last_scale_shift_table",
    "latents_mean": "per_channel_statistics.mean-of-means",
    "latents_std": "per_channel_statistics.std-of-means",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
    "attn.to_out.0": "attn.proj",
    "t_embedder.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "t_embedder.timestep_embedder.linear_2": "t_embedder.mlp.2",
}
_AUDIO_VAE = {name: official for name, official in _VIDEO_VAE.items() if name.startswith("latents")}
_VOCODER = {
    "upsamplers": "ups",
    "resnets": "resblocks",
    "conv_in": "conv_pre",
    "conv_out": "conv_post",
    "act_out": "act_post",
    "downsample": "downsample.lowpass",
}
_DURATION = {"attention_pooler.to_out": "attention_pooler.cross_attn.out_proj"}
# Projections that diffusers cuts in three on the first axis.
_CUT = (
    (r"(.*\.attn)\.qkv\.(weight|bias)", r"\1.to_{}.\2"),
    (r"attention_pooler\.cross_attn\.in_proj_(weight|bias)", r"attention_pooler.to_{}.\1"),
)


def official_module(module: str) -> str:
    """The official name of a module that is spelled either way, without any prefix."""
    first, dot, rest = module.partition(".")
    table, module = (CONNECTORS, rest) if dot and first == "connectors" else (TRANSFORMER, module)
    return ".".join(table.get(part, part) for part in module.split("."))


def diffusers_module(module: str) -> str:
    """The name that diffusers gives to a module of this official name; the inverse of `official_module`."""
    connectors = "_connector." in module or module.startswith("text_embedding_projection.")
    spelled = f".{module}."
    for theirs, ours in (CONNECTORS if connectors else TRANSFORMER).items():
        spelled = spelled.replace(f".{ours}.", f".{theirs}.")
    return spelled.strip(".") if not connectors else "connectors" + spelled.rstrip(".")


# Folder of a diffusers pipeline -> its renaming, the official prefix of what lies there, and names that only it has.
COMPONENTS: dict[str, tuple[Mapping[str, str], str, tuple[str, ...]]] = {
    "transformer": (TRANSFORMER, "model.diffusion_model.", ("proj_in.weight", "audio_proj_in.weight")),
    "connectors": (CONNECTORS, "", ("video_connector.learnable_registers", "text_proj_in.weight")),
    "vae": (
        _VIDEO_VAE, "vae.",
        ("encoder.mid_block.resnets.0.conv1.conv.weight", "decoder.mid_block.resnets.0.conv1.conv.weight",
         "decoder.det_stages.0.0.attn.to_q.weight"),
    ),
    "audio_vae": (_AUDIO_VAE, "audio_vae.", ("encoder.down.0.block.0.conv1.conv.weight",)),
    "vocoder": (_VOCODER, "vocoder.", ("resnets.0.convs1.0.weight", "vocoder.resnets.0.convs1.0.weight")),
    "duration_head": (_DURATION, "duration_head.", ("attention_pooler.to_q.weight",)),
}  # fmt: skip
_UNDER_DIFFUSION = ("video_embeddings_connector.", "audio_embeddings_connector.")


def diffusers_names(component: str, names: Iterable[str]) -> Thirds:
    """Names of diffusers by official name (both whole) of the tensors of a component.

    Raises UserError for a video VAE whose blocks diffusers has no names for.
    """
    table, prefix, _ = COMPONENTS[component]
    found, names = {}, list(names)
    last = max((int(m[1]) for n in names if (m := re.match(r"vae\.encoder\.down_blocks\.(\d+)\.", n))), default=0)
    for name in names:
        own = name.removeprefix(prefix).removeprefix("model.diffusion_model.")
        cut = next((m.expand(thirds) for pattern, thirds in _CUT if (m := re.fullmatch(pattern, own))), None)
        pieces = [cut.format(letter) for letter in "qkv"] if cut is not None else [own]
        if component == "vae":
            pieces = [_diffusers_block(piece, last) for piece in pieces]
        found[name] = tuple(_replaced(piece, {v: k for k, v in table.items()}) for piece in pieces)
    return found


def official_names(names: Iterable[str]) -> Thirds | None:
    """The same table from names of diffusers, of a component that they tell; None where they are not diffusers'."""
    names = list(names)
    known = set(names)
    component = next((c for c, (_, _, marks) in COMPONENTS.items() if known & set(marks)), None)
    if component is None:
        return None
    table, prefix, _ = COMPONENTS[component]
    found: dict[str, list[str]] = {}
    last = 2 * len({m[1] for n in names if (m := re.match(r"encoder\.down_blocks\.(\d+)\.downsamplers", n))})
    for name in names:
        own = _official_block(name, last) if component == "vae" else name
        own = _replaced(own, table)
        own = re.sub(r"(.*\.attn)\.to_[qkv]\.(weight|bias)", r"\1.qkv.\2", own) if component == "vae" else own
        own = re.sub(r"attention_pooler\.to_[qkv]\.", "attention_pooler.cross_attn.in_proj_", own)
        under = "model.diffusion_model." if own.startswith(_UNDER_DIFFUSION) else prefix
        found.setdefault(under + own, []).append(name)
    order = lambda name: "qkv".find(m[1]) if (m := re.search(r"\.to_([qkv])\.", name)) else 0
    return {official: tuple(sorted(theirs, key=order)) for official, theirs in found.items()}


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """`name` with whole path components replaced."""
    spelled = f".{name}."
    for old, new in table.items():
        spelled = spelled.replace(f".{old}.", f".{new}.")
    return spelled.strip(".")


def _diffusers_block(name: str, last: int) -> str:
    """The blocks of the published video VAEs: a stack of residual blocks and a resampling by turns."""
    found = re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(.*)", name)
    if found is None:
        return name
    half, way, k, rest = found[1], found[2], int(found[3]), found[4]
    if rest.startswith("res_blocks") != (k % 2 == 0):
        raise UserError(
            "diffusers has no names for this video VAE: its blocks are no turns of residual stacks and resamplings."
        )
    if k == (last if way == "down" else 0):
        return f"{half}.mid_block.{rest}"
    if way == "down":
        return f"{half}.down_blocks.{k // 2}.{rest if k % 2 == 0 else f'downsamplers.0.{rest}'}"
    return f"{half}.up_blocks.{(k - 1) // 2}.{rest if k % 2 == 0 else f'upsamplers.0.{rest}'}"


def _official_block(name: str, last: int) -> str:
    found = re.fullmatch(r"(encoder|decoder)\.(mid_block|(?:down|up)_blocks\.(\d+))\.(.*)", name)
    if found is None:
        return name
    half, rest = found[1], found[4]
    way, end = ("down", last) if half == "encoder" else ("up", 0)
    if found[2] == "mid_block":
        return f"{half}.{way}_blocks.{end}.{rest}"
    resampling = rest.startswith(f"{way}samplers.0.")
    k = 2 * int(found[3]) + (resampling if way == "down" else 2 - resampling)
    return f"{half}.{way}_blocks.{k}.{rest.removeprefix(f'{way}samplers.0.')}"
