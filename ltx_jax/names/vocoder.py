"""Official tensor names of a vocoder (spec audio_vae.md section 10), derived from its config."""

from ltx_jax.models.audio_vae.config import GeneratorConfig, VocoderConfig
from ltx_jax.names import Name

Path = tuple[str, ...]

CONV_AXES = (2, 1, 0)  # (out, in, k) -> (k, in, out)
TRANSPOSED_AXES = (2, 0, 1)  # (in, out, k) -> (k, in, out)


def vocoder_names(config: VocoderConfig) -> list[Name]:
    """Names below `vocoder.`: of one generator, or of both and the mel between them."""
    if config.bwe is None:
        return generator_names(config.vocoder, "", ("generator",))
    names = generator_names(config.vocoder, "vocoder.", ("generator",))
    names += generator_names(config.bwe, "bwe_generator.", ("bandwidth", "generator"))
    for official in ("mel_basis", "stft_fn.forward_basis", "stft_fn.inverse_basis"):
        names.append(Name(f"mel_stft.{official}", ("bandwidth", official.split(".")[-1])))
    return names


def generator_names(config: GeneratorConfig, official: str = "", path: Path = ()) -> list[Name]:
    """Names of one generator; `official` is its prefix with the dot."""
    names = _conv(f"{official}conv_pre", (*path, "conv_pre"))
    blocks = len(config.resblock_kernel_sizes)
    for i in range(len(config.upsample_rates)):
        names += _conv(f"{official}ups.{i}", (*path, f"ups_{i}"), TRANSPOSED_AXES)
        for j in range(blocks):
            n = i * blocks + j
            names += _residual(config, j, f"{official}resblocks.{n}", (*path, f"resblocks_{n}"))
    if config.resblock != "1":
        names += _activation(f"{official}act_post", (*path, "act_post"), beta=True)
    return names + _conv(f"{official}conv_post", (*path, "conv_post"), bias=config.use_bias_at_final)


def _conv(official: str, path: Path, axes: tuple[int, ...] = CONV_AXES, bias: bool = True) -> list[Name]:
    names = [Name(f"{official}.weight", (*path, "kernel"), axes)]
    return names + [Name(f"{official}.bias", (*path, "bias"))] * bias


def _residual(config: GeneratorConfig, block: int, official: str, path: Path) -> list[Name]:
    names = []
    for half in (1, 2):
        for d in range(len(config.resblock_dilation_sizes[block])):
            names += _conv(f"{official}.convs{half}.{d}", (*path, f"convs{half}_{d}"))
            if config.resblock != "1":
                beta = config.activation == "snakebeta"
                names += _activation(f"{official}.acts{half}.{d}", (*path, f"acts{half}_{d}"), beta)
    return names


def _activation(official: str, path: Path, beta: bool) -> list[Name]:
    names = [Name(f"{official}.act.alpha", (*path, "alpha"))]
    names += [Name(f"{official}.act.beta", (*path, "beta"))] * beta
    return names + [
        Name(f"{official}.upsample.filter", (*path, "upsample")),
        Name(f"{official}.downsample.lowpass.filter", (*path, "downsample")),
    ]
