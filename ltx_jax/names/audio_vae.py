"""Official tensor names of the audio encoder and decoder (spec audio_vae.md section 10), derived from the config."""

from ltx_jax.models.audio_vae.config import AudioVAEConfig
from ltx_jax.names import Name

Path = tuple[str, ...]

CONV_AXES = (2, 3, 1, 0)  # (out, in, time, mel) -> (time, mel, in, out)


def audio_encoder_names(config: AudioVAEConfig) -> list[Name]:
    """Names below `audio_vae.encoder.`."""
    names = _conv("conv_in.conv", ("conv_in",))
    width = config.ch
    for i, multiplier in enumerate(config.ch_mult):
        features = config.ch * multiplier
        names += _level(config, f"down.{i}", f"down_{i}", i, (width, features), config.num_res_blocks)
        if i + 1 < len(config.ch_mult) and config.resamp_with_conv:
            names += _conv(f"down.{i}.downsample.conv", (f"downsample_{i}", "conv"))
        width = features
    return names + _middle(config) + _norm(config, "norm_out", ("norm_out",)) + _conv("conv_out.conv", ("conv_out",))


def audio_decoder_names(config: AudioVAEConfig) -> list[Name]:
    """Names below `audio_vae.decoder.`."""
    names = _conv("conv_in.conv", ("conv_in",)) + _middle(config)
    width = config.ch * config.ch_mult[-1]
    for i in reversed(range(len(config.ch_mult))):
        features = config.ch * config.ch_mult[i]
        names += _level(config, f"up.{i}", f"up_{i}", i, (width, features), config.num_res_blocks + 1)
        if i > 0 and config.resamp_with_conv:
            names += _conv(f"up.{i}.upsample.conv.conv", (f"upsample_{i}", "conv"))
        width = features
    return names + _norm(config, "norm_out", ("norm_out",)) + _conv("conv_out.conv", ("conv_out",))


def _conv(official: str, path: Path) -> list[Name]:
    return [Name(f"{official}.weight", (*path, "kernel"), CONV_AXES), Name(f"{official}.bias", (*path, "bias"))]


def _norm(config: AudioVAEConfig, official: str, path: Path) -> list[Name]:
    if config.norm_type == "pixel":
        return []
    return [Name(f"{official}.weight", (*path, "scale")), Name(f"{official}.bias", (*path, "bias"))]


def _resnet(config: AudioVAEConfig, official: str, path: Path, shortcut: bool) -> list[Name]:
    names = []
    for i in (1, 2):
        names += _norm(config, f"{official}.norm{i}", (*path, f"norm{i}"))
        names += _conv(f"{official}.conv{i}.conv", (*path, f"conv{i}"))
    return names + _conv(f"{official}.nin_shortcut.conv", (*path, "nin_shortcut")) * shortcut


def _attention(config: AudioVAEConfig, official: str, path: Path) -> list[Name]:
    names = _norm(config, f"{official}.norm", (*path, "norm"))
    for name in ("q", "k", "v", "proj_out"):  # these convolutions are not wrapped in a ".conv"
        names += _conv(f"{official}.{name}", (*path, name))
    return names


def _level(
    config: AudioVAEConfig, official: str, ours: str, level: int, widths: tuple[int, int], count: int
) -> list[Name]:
    names = []
    for j in range(count):
        changes = j == 0 and widths[0] != widths[1]
        names += _resnet(config, f"{official}.block.{j}", (ours, f"block_{j}"), changes)
        if config.has_attention(level):
            names += _attention(config, f"{official}.attn.{j}", (ours, f"attn_{j}"))
    return names


def _middle(config: AudioVAEConfig) -> list[Name]:
    attention = _attention(config, "mid.attn_1", ("mid", "attn_1")) if config.mid_block_add_attention else []
    blocks = [_resnet(config, f"mid.block_{i}", ("mid", f"block_{i}"), False) for i in (1, 2)]
    return blocks[0] + attention + blocks[1]
