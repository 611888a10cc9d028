"""Official tensor names of the 2.5 diffusion video decoder (spec video_vae.md section 10), derived from the config."""

import dataclasses

from ltx_jax.models.video_vae.diffusion_config import DiffusionDecoderConfig
from ltx_jax.names import Name, linear

Path = tuple[str, ...]


def diffusion_decoder_names(config: DiffusionDecoderConfig) -> list[Name]:
    """Names below `decoder.`."""
    names = linear("conv_in", ("conv_in",))
    for i, depth in enumerate(config.stage_depths[:-1]):
        names += _blocks(f"det_stages.{i}.{{i}}.", (f"det_stages_{i}",), depth)
        names += linear(f"upsamples.{i}.proj", (f"upsamples_{i}", "each", "proj"))
    for official, layer in (("0", "linear_1"), ("2", "linear_2")):
        names += linear(f"t_embedder.mlp.{official}", ("t_embedder", layer))
    names += linear("conv_in_x_t", ("conv_in_x_t", "each", "proj"))
    names += linear("shared_adaln.proj", ("shared_adaln",))
    blocks, depth = ("diff_blocks",), config.stage_depths[-1]
    denoising = _blocks("diff_blocks.{i}.", blocks, depth)
    denoising += linear("diff_blocks.{i}.context_proj", (*blocks, "context_proj"), layers=depth)
    names += [dataclasses.replace(name, gate=_gate_of(name.official)) for name in denoising]
    names.append(Name("diff_blocks.{i}.scale_shift_table", (*blocks, "scale_shift_table"), None, depth))
    names.append(Name("norm_out.weight", ("conv_out", "each", "norm")))
    return names + linear("conv_out", ("conv_out", "each", "proj"))


def _gate_of(official: str) -> str | None:
    """The static gate that older files keep apart from a tensor (7, legacy gated files)."""
    for layer, gate in (("attn.proj", "gate_msa"), ("mlp.w_down", "gate_mlp"), ("context_proj", "gate_ctx")):
        if f".{layer}." in official:
            return f"diff_blocks.{{i}}.{gate}"
    return None


def neighbourhood_names(official: str, heads: Path, proj: Path, layers: int | None = None) -> list[Name]:
    """Names of a neighbourhood attention layer of the diffusion decoder; `official` ends in a dot or is empty.

    heads, proj: where its two halves lie in our tree. layers: how many are stacked.
    """
    names = linear(f"{official}qkv", (*heads, "qkv"), layers=layers)
    names += [Name(f"{official}{norm}.weight", (*heads, norm), None, layers) for norm in ("q_norm", "k_norm")]
    return names + linear(f"{official}proj", proj, layers=layers)


def _blocks(official: str, path: Path, depth: int) -> list[Name]:
    attend, leave = (*path, "attend", "each"), (*path, "leave", "each")
    names = neighbourhood_names(f"{official}attn.", (*attend, "heads"), (*leave, "proj"), depth)
    for norm, where in (("norm1", attend), ("norm2", leave)):
        names.append(Name(f"{official}{norm}.weight", (*where, "norm"), None, depth))
    for layer in ("w_up", "w_gate", "w_down"):
        names += linear(f"{official}mlp.{layer}", (*leave, layer), False, depth)
    return names
