"""Official tensor names of the video encoder and decoder (spec video_vae.md section 10), derived from the config."""

from ltx_jax.models.video_vae.config import BlockConfig, VideoVAEConfig
from ltx_jax.names import Name, linear
from ltx_jax.names.diffusion_decoder import diffusion_decoder_names

Path = tuple[str, ...]

CONV_AXES = (2, 3, 4, 1, 0)  # (out, in, kt, kh, kw) -> (kt, kh, kw, in, out)
CONV2D_AXES = (2, 3, 1, 0)  # (out, in, kh, kw) -> (kh, kw, in, out)
VECTOR_AXES = (1, 2, 0)  # (C, 1, 1) -> (1, 1, C)


def video_encoder_names(config: VideoVAEConfig) -> list[Name]:
    """Names below `vae.encoder.`."""
    groups = config.norm_layer == "group_norm"
    names = conv_names("conv_in", ("conv_in",))
    for i, block in enumerate(config.encoder_blocks):
        changes = block.encoder_multiplier > 1
        names += _block(
            block, f"down_blocks.{i}", (f"down_blocks_{i}",), groups, changes, strided=block.is_strided_conv
        )
    return names + _norm(groups, "conv_norm_out", ("conv_norm_out",)) + conv_names("conv_out", ("conv_out",))


def video_decoder_names(config: VideoVAEConfig) -> list[Name]:
    """Names below `vae.decoder.`, of either decoder."""
    if config.diffusion is not None:
        return diffusion_decoder_names(config.diffusion)
    groups, timestep = config.norm_layer == "group_norm", config.timestep_conditioning
    names = conv_names("conv_in", ("conv_in",))
    for i, block in enumerate(reversed(config.decoder_blocks)):
        changes = block.decoder_divisor > 1
        names += _block(block, f"up_blocks.{i}", (f"up_blocks_{i}",), groups, changes, timestep)
    names += _norm(groups, "conv_norm_out", ("conv_norm_out",)) + conv_names("conv_out", ("conv_out",))
    if timestep:
        names += [Name(name, (name,)) for name in ("timestep_scale_multiplier", "last_scale_shift_table")]
        names += _embedder("last_time_embedder", ("last_time_embedder",))
    return names


def conv_names(official: str, path: Path) -> list[Name]:
    """Names of a 3x3x3 convolution, whose official name has an inner `.conv`."""
    return [
        Name(f"{official}.conv.weight", (*path, "kernel"), CONV_AXES),
        Name(f"{official}.conv.bias", (*path, "bias")),
    ]


def resnet_names(
    official: str, path: Path, groups: bool, changes: bool = False, timestep: bool = False, noise: bool = False
) -> list[Name]:
    """Names of a residual block; `official` ends in a dot or is empty. changes: whether in and out widths differ."""
    names = []
    for i in (1, 2):
        names += _norm(groups, f"{official}norm{i}", (*path, f"norm{i}"))
        names += conv_names(f"{official}conv{i}", (*path, f"conv{i}"))
        scale = f"per_channel_scale{i}"
        names += [Name(official + scale, (*path, scale), VECTOR_AXES)] * noise
    if changes:
        names += _norm(True, f"{official}norm3", (*path, "norm3"))
        shortcut = (*path, "conv_shortcut")
        names += [Name(f"{official}conv_shortcut.weight", (*shortcut, "kernel"), CONV_AXES)]
        names += [Name(f"{official}conv_shortcut.bias", (*shortcut, "bias"))]
    return names + [Name(f"{official}scale_shift_table", (*path, "scale_shift_table"))] * timestep


def attn_names(official: str, path: Path) -> list[Name]:
    """Names of an attention block; `official` ends in a dot or is empty."""
    names = [Name(f"{official}norm.gamma", (*path, "gamma"), VECTOR_AXES)]
    for layer in ("to_qkv", "proj"):
        names += [Name(f"{official}{layer}.weight", (*path, layer, "kernel"), CONV2D_AXES)]
        names += [Name(f"{official}{layer}.bias", (*path, layer, "bias"))]
    return names


def _block(
    block: BlockConfig, official: str, path: Path, groups: bool, changes: bool, timestep: bool = False,
    strided: bool = False,
) -> list[Name]:  # fmt: skip
    if block.name == "attn":
        return attn_names(f"{official}.", path)
    if block.name == "res_x_y":
        return resnet_names(f"{official}.", path, groups, changes, noise=block.inject_noise)
    if block.name == "res_x":
        names = _embedder(f"{official}.time_embedder", (*path, "time_embedder")) if timestep else []
        for j in range(block.num_layers):
            inner = (*path, f"res_blocks_{j}")
            names += resnet_names(f"{official}.res_blocks.{j}.", inner, groups, False, timestep, block.inject_noise)
        return names
    return conv_names(official, path) if strided else conv_names(f"{official}.conv", (*path, "conv"))


def _norm(groups: bool, official: str, path: Path) -> list[Name]:
    return [Name(f"{official}.weight", (*path, "scale")), Name(f"{official}.bias", (*path, "bias"))] * groups


def _embedder(official: str, path: Path) -> list[Name]:
    names = []
    for layer in ("linear_1", "linear_2"):
        names += linear(f"{official}.timestep_embedder.{layer}", (*path, layer))
    return names
