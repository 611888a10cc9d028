"""Releases as declarations: every part's configuration and the sampling defaults, one literal each.

A file that carries its own metadata needs none of this; files without it, training from scratch and the planner do.
No code branches on a release's name: differences follow from these configurations (spec transformer.md 1, video_vae.md
1, audio_vae.md 9, gemma.md 3, sampling.md 11).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltx_jax.diffusion.families.network import find_process
from ltx_jax.errors import UserError, require
from ltx_jax.models.text.config import text_config
from ltx_jax.models.text.duration import DurationConfig
from ltx_jax.models.upsampler import UpsamplerConfig
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.parts import Configs, configs_from_official

# The phrases of the published default negative prompt (spec sampling.md 11).
NEGATIVE_PROMPT = (
    ", ".join(
        (
            "has_subtitles", "has_blurbox", "transition from black", "transition to black", "speech_ending_short",
            "blurry", "out of focus", "overexposed", "underexposed", "low contrast", "washed out colors",
            "excessive noise", "grainy texture", "poor lighting", "flickering", "motion blur",
            "distorted proportions", "unnatural skin tones", "deformed facial features", "asymmetrical face",
            "missing facial features", "extra limbs", "disfigured hands", "wrong hand count",
            "artifacts around text", "inconsistent perspective", "camera shake", "incorrect depth of field",
            "background too sharp", "background clutter", "distracting reflections", "harsh shadows",
            "inconsistent lighting direction", "color banding", "cartoonish rendering", "3D CGI look",
            "unrealistic materials", "uncanny valley effect", "incorrect ethnicity", "wrong gender",
            "exaggerated expressions", "wrong gaze direction", "mismatched lip sync", "silent or muted audio",
            "distorted voice", "robotic voice", "echo", "background noise", "off-sync audio", "incorrect dialogue",
            "added dialogue", "repetitive speech", "jittery movement", "awkward pauses", "incorrect timing",
            "unnatural transitions", "inconsistent framing", "tilted camera", "flat lighting", "inconsistent tone",
            "cinematic oversaturation", "stylized filters", "or AI artifacts",
        )
    )
    + "."
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SamplingDefaults:
    """What a request uses where it says nothing. Sizes in pixels and frames, fps in frames per second.

    cfg, audio_cfg: guidance scales (1: off). rescale: share of std-matching after guidance. stg, stg_blocks, modality:
    guidance by skipped attention (spec sampling.md 6.1, 11). schedule, stepper: see `diffusion.schedules.SCHEDULES` and
    `diffusion.steppers.STEPPERS`. schedule_tokens: token count of the schedule's shift (None: the reference's 4096
    whatever the size, spec sampling.md 5.1).
    """

    width: int = 768
    height: int = 512
    num_frames: int = 121
    fps: float = 24.0
    steps: int = 40
    cfg: float = 3.0
    audio_cfg: float = 7.0
    rescale: float = 0.7
    stg: float = 1.0
    stg_blocks: tuple[int, ...] | None = (29,)
    modality: float = 3.0
    stepper: str = "euler"
    schedule: str = "ltx2"
    schedule_tokens: int | None = None
    negative_prompt: str = NEGATIVE_PROMPT
    seed: int = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release(Configs):
    """One member of the model family: the configuration of every part, and the sampling defaults.

    split: published as a file per component, not as one of all parts and a folder of the text encoder. process: of the
    transformer's training, see `diffusion.families.network.find_process`.
    """

    name: str
    version: str
    sampling: SamplingDefaults = SamplingDefaults()
    split: bool = False
    process: str = "flow"

    def __post_init__(self):
        find_process(self.process)
        dit, video = self.transformer, self.video_vae
        require(
            dit.in_channels == video.latent_channels,
            f"The transformer reads {dit.in_channels} channels but the video VAE makes {video.latent_channels}.",
        )
        require(
            dit.audio_in_channels == self.audio_vae.token_width,
            f"The transformer reads audio tokens of {dit.audio_in_channels} numbers but the audio VAE makes "
            f"{self.audio_vae.token_width}.",
        )
        head, text = self.duration_head, self.connectors
        require(
            head is None or (head.video_width, head.audio_width) == (text.video.width, text.audio.width),
            f"The duration head reads texts of other widths than the connectors' {text.video.width} and "
            f"{text.audio.width}: it is of another model.",
        )
        for upsampler in filter(None, (self.spatial_upsampler, self.temporal_upsampler)):
            require(
                upsampler.in_channels == video.latent_channels,
                f"The upsampler reads {upsampler.in_channels} channels but the VAE makes {video.latent_channels}.",
            )
        registers = self.connectors.connector_num_learnable_registers
        require(
            not registers or self.text_length % registers == 0,
            f"text_length {self.text_length} must be a multiple of the {registers} registers.",
        )


def first_difference(ours: Any, theirs: Any, fields: Sequence[str] | None = None, where: str = "") -> str | None:
    """Where two configurations differ first, as "transformer.num_layers (2 against 4)"; None where they agree.

    fields: of the outermost level, all if None.
    """
    if ours == theirs:
        return None
    if not dataclasses.is_dataclass(ours) or type(ours) is not type(theirs):
        return f"{where} ({ours} against {theirs})"
    names = [f.name for f in dataclasses.fields(ours)] if fields is None else fields
    below = f"{where}." if where else ""
    found = (first_difference(getattr(ours, n), getattr(theirs, n), None, below + n) for n in names)
    return next((difference for difference in found if difference is not None), None)


def release(name: str) -> Release:
    """The release called `name`. Raises UserError naming those that exist."""
    if name not in RELEASES:
        raise UserError(f"There is no release '{name}'; known: {', '.join(RELEASES)}.")
    return RELEASES[name]()


def _res(count: int) -> tuple[str, dict[str, int]]:
    return ("res_x", {"num_layers": count})


def _by(name: str, multiplier: int = 2, **more: Any) -> tuple[str, dict[str, Any]]:
    return (name, {"multiplier": multiplier, **more})


_TRANSFORMER_2_0 = {
    "num_layers": 48, "num_attention_heads": 32, "attention_head_dim": 128, "in_channels": 128, "out_channels": 128,
    "cross_attention_dim": 4096, "audio_num_attention_heads": 32, "audio_attention_head_dim": 64,
    "audio_out_channels": 128, "audio_cross_attention_dim": 2048, "caption_channels": 3840, "norm_eps": 1e-6,
    "positional_embedding_theta": 10000.0, "positional_embedding_max_pos": [20, 2048, 2048],
    "audio_positional_embedding_max_pos": [20], "rope_type": "split", "frequencies_precision": "float64",
    "timestep_scale_multiplier": 1000, "av_ca_timestep_scale_multiplier": 1000.0,
    "connector_num_attention_heads": 30, "connector_attention_head_dim": 128, "connector_num_layers": 2,
    "connector_positional_embedding_max_pos": [4096], "connector_num_learnable_registers": 128,
}  # fmt: skip
_TRANSFORMER_2_3 = {
    **_TRANSFORMER_2_0, "apply_gated_attention": True, "cross_attention_adaln": True,
    "caption_proj_before_connector": True, "caption_projection_first_linear": False,
    "caption_projection_second_linear": False, "caption_proj_input_norm": False,
    "connector_num_attention_heads": 32, "connector_num_layers": 8, "connector_apply_gated_attention": True,
    "audio_connector_num_attention_heads": 32, "audio_connector_attention_head_dim": 64,
}  # fmt: skip
_TRANSFORMER_2_5 = {**_TRANSFORMER_2_3, "ff_bias": False, "use_keyframes_abs_pos_embedding": True}

_VIDEO_VAE = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
    "patch_size": 4, "norm_layer": "pixel_norm", "latent_log_var": "uniform", "causal_decoder": False,
    "timestep_conditioning": False,
}  # fmt: skip
_VIDEO_VAE_2_0 = {
    **_VIDEO_VAE,
    "encoder_blocks": [
        _res(4), _by("compress_space_res"), _res(6), _by("compress_time_res"), _res(6), _by("compress_all_res"),
        _res(2), _by("compress_all_res"), _res(2),
    ],
    "decoder_blocks": [
        _res(5), _by("compress_all", residual=True), _res(5), _by("compress_all", residual=True), _res(5),
        _by("compress_all", residual=True), _res(5),
    ],
}  # fmt: skip
_VIDEO_VAE_2_3 = {
    **_VIDEO_VAE,
    "spatial_padding_mode": "zeros",
    "encoder_blocks": [
        _res(4), _by("compress_space_res"), _res(6), _by("compress_time_res"), _res(4), _by("compress_all_res"),
        _res(2), _by("compress_all_res", 1), _res(2),
    ],
    "decoder_blocks": [
        _res(4), _by("compress_space"), _res(6), _by("compress_time"), _res(4), _by("compress_all", 1), _res(2),
        _by("compress_all"), _res(2),
    ],
}  # fmt: skip
# The encoder of 2.3, and the diffusion decoder in the place of the convolutional one.
_VIDEO_VAE_2_5 = {
    "_class_name": "CausalDiffusionVAE", "dims": 3, "model_output_type": "x0",
    "encoder": {
        "_class_name": "Encoder", "in_channels": 3, "out_channels": 128, "patch_size": 4,
        "norm_layer": "pixel_norm", "latent_log_var": "constant", "spatial_padding_mode": "zeros",
        "blocks": _VIDEO_VAE_2_3["encoder_blocks"],
    },
    "decoder": {
        "_class_name": "NADiffusionDecoder", "in_channels": 128, "out_channels": 3, "patch_size": 4, "head_dim": 64,
        "stage_channels": [2048, 1024, 512, 512, 256], "stage_depths": [4, 6, 4, 2, 8],
        "stage_kernels": [[3, 7, 7], [3, 7, 7], [3, 5, 5], [3, 5, 5], [11, 11, 11]],
        "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 2]],
        "stage5_kernel": [11, 11, 11], "timestep_scale_multiplier": 1000.0, "default_num_inference_steps": 1,
    },
}  # fmt: skip
_VIDEO_VAE_TOY = {
    **_VIDEO_VAE,
    "latent_channels": 32, "decoder_base_channels": 64, "spatial_padding_mode": "zeros",
    "encoder_blocks": [_res(1), _by("compress_all_res"), _res(1), _by("compress_time_res", 1), _res(1)],
    "decoder_blocks": [_res(1), _by("compress_all", 1), _res(1), _by("compress_time", 1), _res(1)],
}  # fmt: skip

# 16 x 16 x 4: a clip of 64 x 64 pixels and 25 frames is 112 tokens.
_VIDEO_VAE_TOY64 = {
    **_VIDEO_VAE,
    "latent_channels": 64, "decoder_base_channels": 32, "spatial_padding_mode": "zeros",
    "encoder_blocks": [
        _by("compress_space_res", 1), _res(1), _by("compress_all_res"), _res(1), _by("compress_time_res", 1), _res(1),
    ],
    "decoder_blocks": [
        _res(1), _by("compress_space"), _res(1), _by("compress_all"), _by("compress_time", 1), _res(1),
    ],
}  # fmt: skip


def _audio_vae(
    ch: int = 128, z_channels: int = 8, res_blocks: int = 2, ch_mult: tuple[int, ...] = (1, 2, 4)
) -> dict[str, Any]:
    ddconfig = {
        "double_z": True, "mel_bins": 64, "z_channels": z_channels, "resolution": 256, "in_channels": 2, "out_ch": 2,
        "ch": ch, "ch_mult": list(ch_mult), "num_res_blocks": res_blocks, "attn_resolutions": [], "dropout": 0.0,
        "mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height",
    }  # fmt: skip
    stft = {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True}
    return {
        "model": {"params": {"ddconfig": ddconfig, "sampling_rate": 16000}},
        "preprocessing": {
            "audio": {"sampling_rate": 16000, "stereo": True},
            "stft": stft,
            "mel": {"n_mel_channels": 64},
        },
    }


_VOCODER_2_0 = {
    "upsample_initial_channel": 1024, "resblock": "1", "upsample_rates": [6, 5, 2, 2, 2],
    "upsample_kernel_sizes": [16, 15, 8, 4, 4], "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "stereo": True,
}  # fmt: skip
_AMP1 = {
    **_VOCODER_2_0,
    "resblock": "AMP1",
    "use_tanh_at_final": False,
    "activation": "snakebeta",
    "use_bias_at_final": False,
}
_VOCODER_2_3 = {
    "vocoder": {
        **_AMP1, "upsample_initial_channel": 1536, "upsample_rates": [5, 2, 2, 2, 2, 2],
        "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
    },
    "bwe": {
        **_AMP1, "upsample_initial_channel": 512, "upsample_kernel_sizes": [12, 11, 4, 4, 4],
        "apply_final_activation": False, "input_sampling_rate": 16000, "output_sampling_rate": 48000,
        "hop_length": 80, "n_fft": 512, "win_size": 512, "num_mels": 64,
    },
}  # fmt: skip
_VOCODER_TOY = {
    "upsample_initial_channel": 128, "resblock": "1", "upsample_rates": [5, 4, 4, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4], "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3], [1, 3]], "stereo": True, "output_sampling_rate": 16000,
}  # fmt: skip

_GEMMA3_12B = {
    "vocab_size": 262208, "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "query_pre_attn_scalar": 256,
    "sliding_window": 1024, "sliding_window_pattern": 6, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
}  # fmt: skip
_GEMMA4_12B = {
    "model_type": "gemma4_unified_text", "vocab_size": 262144, "hidden_size": 3840, "intermediate_size": 15360,
    "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
    "global_head_dim": 512, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "sliding_window": 1024,
    "final_logit_softcapping": 30.0,
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}  # fmt: skip
_GEMMA3_TOY = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 32,
    "sliding_window": 16, "sliding_window_pattern": 2, "rope_theta": 10000.0,
}  # fmt: skip
_TRANSFORMER_TOY = {
    **_TRANSFORMER_2_5,
    "num_layers": 5, "num_attention_heads": 4, "attention_head_dim": 48, "cross_attention_dim": 192,
    "audio_num_attention_heads": 4, "audio_attention_head_dim": 24, "audio_cross_attention_dim": 96,
    "in_channels": 32, "out_channels": 32, "audio_in_channels": 32, "audio_out_channels": 32, "caption_channels": 128,
    "positional_embedding_theta": 100.0, "positional_embedding_max_pos": [4, 32, 32],
    "audio_positional_embedding_max_pos": [4],
    "connector_num_layers": 1, "connector_num_attention_heads": 4, "connector_attention_head_dim": 48,
    "audio_connector_num_attention_heads": 4, "audio_connector_attention_head_dim": 24,
    "connector_positional_embedding_max_pos": [64], "connector_num_learnable_registers": 16,
}  # fmt: skip

_TRANSFORMER_TOY64 = {
    **_TRANSFORMER_TOY, "in_channels": 64, "out_channels": 64, "positional_embedding_max_pos": [4, 64, 64],
}  # fmt: skip


def _build(
    name: str, version: str, transformer: Mapping[str, Any], video_vae: Mapping[str, Any], vocoder: Mapping[str, Any],
    gemma: Mapping[str, Any] = _GEMMA3_12B, audio_vae: Mapping[str, Any] | None = None, **more: Any,
) -> Release:  # fmt: skip
    blocks = {
        "transformer": transformer, "vae": video_vae, "audio_vae": audio_vae or _audio_vae(), "vocoder": vocoder,
    }  # fmt: skip
    return Release(name=name, version=version, **configs_from_official(blocks, text_config(gemma)), **more)


RELEASES: dict[str, Callable[[], Release]] = {
    "toy": lambda: _build(
        "toy", "2.5.0", _TRANSFORMER_TOY, _VIDEO_VAE_TOY, _VOCODER_TOY, _GEMMA3_TOY, _audio_vae(32, 2, 1, (1, 2, 2)),
        text_length=48,
        sampling=SamplingDefaults(
            width=32, height=32, num_frames=17, fps=8.0, steps=20, cfg=3.0, audio_cfg=3.0, rescale=0.0, stg=0.0,
            stg_blocks=None, modality=1.0, schedule_tokens=80, negative_prompt="",
        ),
    ),
    "toy64": lambda: _build(
        "toy64", "2.5.0", _TRANSFORMER_TOY64, _VIDEO_VAE_TOY64, _VOCODER_TOY, _GEMMA3_TOY,
        _audio_vae(32, 2, 1, (1, 2, 2)), text_length=48,
        sampling=SamplingDefaults(
            width=64, height=64, num_frames=25, fps=12.5, steps=20, cfg=3.0, audio_cfg=3.0, rescale=0.0, stg=0.0,
            stg_blocks=None, modality=1.0, schedule_tokens=112, negative_prompt="",
        ),
    ),
    "ltx2_19b": lambda: _build("ltx2_19b", "2.0.0", _TRANSFORMER_2_0, _VIDEO_VAE_2_0, _VOCODER_2_0),
    "ltx2_3_22b": lambda: _build(
        "ltx2_3_22b", "2.3.0", _TRANSFORMER_2_3, _VIDEO_VAE_2_3, _VOCODER_2_3,
        sampling=SamplingDefaults(steps=30, stg_blocks=(28,)),
    ),
    "ltx2_5_22b": lambda: _build(
        "ltx2_5_22b", "2.5.0", _TRANSFORMER_2_5, _VIDEO_VAE_2_5, _VOCODER_2_3, _GEMMA4_12B,
        sampling=SamplingDefaults(steps=30, stg_blocks=(28,)), split=True,
    ),
}  # fmt: skip

_SPATIAL_X2 = UpsamplerConfig(mid_channels=1024)
_SPATIAL_X1_5 = UpsamplerConfig(mid_channels=1024, spatial_scale=1.5, rational_resampler=True)
_TEMPORAL_X2 = UpsamplerConfig(
    mid_channels=512, spatial_upsample=False, temporal_upsample=True, spatial_scale=1.0, rational_resampler=True
)
# What is published beside a release, each in a file of its own (spec video_vae.md 1 and 9, transformer.md 13).
COMPANIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "ltx2_19b": (
        {
            "spatial_upsampler": UpsamplerConfig(mid_channels=1024, rational_resampler=True),
            "temporal_upsampler": _TEMPORAL_X2,
        },
    ),
    "ltx2_3_22b": (
        {"spatial_upsampler": _SPATIAL_X2, "temporal_upsampler": _TEMPORAL_X2},
        {"spatial_upsampler": _SPATIAL_X1_5},
    ),
    "ltx2_5_22b": (
        {"spatial_upsampler": _SPATIAL_X2, "temporal_upsampler": _TEMPORAL_X2, "duration_head": DurationConfig()},
        {"video_vae": VideoVAEConfig.from_official(_VIDEO_VAE_2_3)},
    ),
}
