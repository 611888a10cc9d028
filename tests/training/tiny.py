"""The smallest release with every part and switch of the toy, and a model of it, for tests of training."""

import dataclasses
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from drawn import drawn

from ltx_jax.bundle import Bundle, abstract_parts, make_networks
from ltx_jax.checkpoints.save import save_bundle
from ltx_jax.data.raw.toy_tokenizer import toy_tokenizer
from ltx_jax.models.audio_vae.config import AudioVAEConfig, VocoderConfig
from ltx_jax.models.dit.config import DiTConfig
from ltx_jax.models.text.config import Gemma3Config
from ltx_jax.models.text.connectors import TextConnectorsConfig
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.models.video_vae.config import VideoVAEConfig
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.releases import Release, release

TEXT_LENGTH = 16


def tiny_release() -> Release:
    toy = release("toy")
    transformer = {
        **toy.transformer.to_official(), **toy.connectors.to_official(),
        "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24,
        "audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16,
        "in_channels": 8, "out_channels": 8, "audio_in_channels": 32, "audio_out_channels": 32,
        "caption_channels": 16, "connector_num_layers": 1, "connector_num_attention_heads": 2,
        "connector_attention_head_dim": 12, "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 8, "connector_num_learnable_registers": 8,
    }  # fmt: skip
    text = Gemma3Config.from_official({
        "vocab_size": 512, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8,
        "sliding_window": 8, "sliding_window_pattern": 2,
    })  # fmt: skip
    vae = {
        **toy.video_vae.to_official(), "latent_channels": 8, "decoder_base_channels": 8,
        "encoder_blocks": [("res_x", {"num_layers": 1}), ("compress_all_res", {"multiplier": 2})],
        "decoder_blocks": [("res_x", {"num_layers": 1}), ("compress_all", {"multiplier": 2})],
    }  # fmt: skip
    audio = toy.audio_vae.to_official()
    audio["model"]["params"]["ddconfig"] |= {"ch": 4}
    vocoder = toy.vocoder.to_official() | {
        "upsample_initial_channel": 16, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
    }  # fmt: skip
    return dataclasses.replace(
        toy,
        text=text,
        connectors=TextConnectorsConfig.from_official(transformer, num_hidden_states=3, hidden_size=16),
        transformer=DiTConfig.from_official(transformer),
        video_vae=VideoVAEConfig.from_official(vae),
        audio_vae=AudioVAEConfig.from_official(audio),
        vocoder=VocoderConfig.from_official(vocoder),
        text_length=TEXT_LENGTH,
    )


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def save_tiny_model(folder: Path, seed: int = 0, of: Release | None = None, tokenizer: Tokenizer | None = None) -> Path:
    """Write a model of random weights into `folder`, and return it. of: its release, if not the tiny one."""
    release = of or tiny_release()
    with jax.set_mesh(one_device()):
        networks = make_networks(release)
        shapes, _ = abstract_parts(networks, list(networks.modules))
    params = drawn(shapes, seed)
    widths = {"video_statistics": release.video_vae.latent_channels, "audio_statistics": release.audio_vae.token_width}
    for part, width in widths.items():
        params[part] = {"mean": np.zeros(width, np.float32), "std": np.ones(width, np.float32)}
    save_bundle(Bundle(release, params, tokenizer or toy_tokenizer(release.text_length)), folder, ml_dtypes.bfloat16)
    return folder
