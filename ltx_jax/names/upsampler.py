"""Official tensor names of the latent upsamplers (spec video_vae.md section 10), derived from the config."""

from ltx_jax.models.upsampler import UpsamplerConfig
from ltx_jax.names import Name
from ltx_jax.names.video_vae import CONV2D_AXES, CONV_AXES

Path = tuple[str, ...]


def upsampler_names(config: UpsamplerConfig) -> list[Name]:
    """Names in an upsampler's own file."""
    axes = CONV_AXES if config.dims == 3 else CONV2D_AXES
    names = _conv("initial_conv", ("initial_conv",), axes) + norm_names("initial_norm.", ("initial_norm",))
    names += _res_blocks(config, "res_blocks", axes)
    names += _conv(
        "upsampler.conv" if config.rational else "upsampler.0", ("upsampler", "conv"),
        CONV_AXES if config.temporal_upsample else CONV2D_AXES,
    )  # fmt: skip
    names += [Name("upsampler.blur_down.kernel", ("upsampler", "blur"))] * config.rational
    names += _res_blocks(config, "post_upsample_res_blocks", axes)
    return names + _conv("final_conv", ("final_conv",), axes)


def norm_names(official: str, path: Path) -> list[Name]:
    """Names of a group norm; `official` ends in a dot or is empty."""
    return [Name(f"{official}weight", (*path, "scale")), Name(f"{official}bias", (*path, "bias"))]


def _res_blocks(config: UpsamplerConfig, stage: str, axes: tuple[int, ...]) -> list[Name]:
    names = []
    for i in range(config.num_blocks_per_stage):
        for j in (1, 2):
            names += _conv(f"{stage}.{i}.conv{j}", (f"{stage}_{i}", f"conv{j}"), axes)
            names += norm_names(f"{stage}.{i}.norm{j}.", (f"{stage}_{i}", f"norm{j}"))
    return names


def _conv(official: str, path: Path, axes: tuple[int, ...]) -> list[Name]:
    return [Name(f"{official}.weight", (*path, "kernel"), axes), Name(f"{official}.bias", (*path, "bias"))]
