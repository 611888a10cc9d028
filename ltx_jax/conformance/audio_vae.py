"""Recorded cases of the audio VAE and the vocoders (spec audio_vae.md). Recordings are (B, C, time, bins)."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.diffusion import geometry
from ltx_jax.media.audio import resample
from ltx_jax.models.audio_vae import filters
from ltx_jax.models.audio_vae.config import AudioVAEConfig, VocoderConfig
from ltx_jax.models.audio_vae.decoder import AudioDecoder
from ltx_jax.models.audio_vae.encoder import AudioEncoder
from ltx_jax.models.audio_vae.generator import Generator, PeriodicActivation
from ltx_jax.models.audio_vae.mel import log_mel
from ltx_jax.models.audio_vae.statistics import denormalize, normalize
from ltx_jax.models.audio_vae.vocoder import BandwidthExtension, Vocoder
from ltx_jax.names import to_tree
from ltx_jax.names.audio_vae import audio_decoder_names, audio_encoder_names
from ltx_jax.names.vocoder import vocoder_names

Outputs = dict[str, np.ndarray]


def _ours(recorded: np.ndarray) -> jax.Array:
    """(B, C, time, bins) -> (B, time, bins, C)."""
    return jnp.asarray(recorded.transpose(0, 2, 3, 1))


def _recorded(ours: jax.Array) -> np.ndarray:
    """(B, time, bins, C) -> (B, C, time, bins)."""
    return np.asarray(ours).transpose(0, 3, 1, 2)


def _apply(module: nn.Module, params: Any, x: Any, method: Any = None) -> Any:
    return jax.jit(lambda p, x: module.apply({"params": p}, x, method=method))(params, x)


def _statistics(case: Case) -> dict[str, jax.Array]:
    stored = {"mean": "mean-of-means", "std": "std-of-means"}
    return {ours: jnp.asarray(case.weights[f"per_channel_statistics.{name}"]) for ours, name in stored.items()}


def _encode_mel(case: Case, config: AudioVAEConfig, mel: jax.Array) -> Outputs:
    params = to_tree(audio_encoder_names(config), case.weights)
    mean, log_variance = _apply(AudioEncoder(config), params, mel)
    moments = jnp.concatenate([mean, log_variance], axis=-1)
    return {"moments": _recorded(moments), "latent": _recorded(normalize(mean, _statistics(case)))}


def _encode(case: Case) -> Outputs:
    config = AudioVAEConfig.from_official(case.config["audio_vae"])
    return _encode_mel(case, config, _ours(case.inputs["spectrogram"]))


def _encode_waveform(case: Case) -> Outputs:
    config = AudioVAEConfig.from_official(case.config["audio_vae"])
    rates = (case.config["input_sampling_rate"], config.sampling_rate)
    waveform = np.stack([resample(w, *rates) for w in case.inputs["waveform"]])
    return _encode_mel(case, config, log_mel(jnp.asarray(waveform), config))


def _decode(case: Case) -> Outputs:
    config = AudioVAEConfig.from_official(case.config["audio_vae"])
    params = to_tree(audio_decoder_names(config), case.weights)
    latents = denormalize(_ours(case.inputs["latent"]), _statistics(case))
    return {"spectrogram": _recorded(_apply(AudioDecoder(config), params, latents))}


def _patchify(case: Case) -> Outputs:
    c, latents = case.config, _ours(case.inputs["latent"])
    bounds = geometry.audio_positions(
        latents.shape[1],
        shift=c["shift"],
        causal=c["is_causal"],
        downsample=c["audio_latent_downsample_factor"],
        hop=c["hop_length"],
        rate=c["sample_rate"],
        batch=latents.shape[0],
    )
    return {"tokens": np.asarray(geometry.patchify_audio(latents)), "bounds": bounds}


def _latent_frames(case: Case) -> Outputs:
    c = case.config
    timing = {"downsample": c["audio_latent_downsample_factor"], "hop": c["hop_length"], "rate": c["sample_rate"]}
    clips = zip(case.inputs["video_frames"].tolist(), case.inputs["fps"].tolist(), strict=True)
    return {"latent_frames": np.array([geometry.audio_length(n, fps, **timing) for n, fps in clips], np.int32)}


def _activation(case: Case) -> Outputs:
    beta = case.config["activation"] == "snakebeta"
    params = {"alpha": case.weights["act.alpha"]} | ({"beta": case.weights["act.beta"]} if beta else {})
    params |= {"upsample": case.weights["upsample.filter"], "downsample": case.weights["downsample.lowpass.filter"]}
    y = _apply(PeriodicActivation(beta), params, jnp.asarray(case.inputs["x"]).transpose(0, 2, 1))
    return {"y": np.asarray(y).transpose(0, 2, 1)}


def _vocoder(case: Case) -> Outputs:
    config = VocoderConfig.from_official(case.config["vocoder"])
    params = to_tree(vocoder_names(config), case.weights)
    return {"waveform": np.asarray(_apply(Vocoder(config), params, _ours(case.inputs["mel"])))}


def _vocoder_bwe(case: Case) -> Outputs:
    config = VocoderConfig.from_official(case.config["vocoder"])
    assert config.bwe is not None
    params: Mapping[str, Any] = to_tree(vocoder_names(config), case.weights)
    mel, extension = _ours(case.inputs["mel"]), params["bandwidth"]
    low = _apply(Generator(config.vocoder), params["generator"], mel)  # (B, samples, 2)
    padded = jnp.pad(low, ((0, 0), (0, -low.shape[1] % config.bwe.hop_length), (0, 0)))
    low_mel = _apply(BandwidthExtension(config.bwe), extension, padded, BandwidthExtension.log_mel)
    channels_first = lambda x: np.asarray(x).transpose(0, 2, 1)
    return {
        "low_rate_waveform": channels_first(low),
        "low_rate_log_mel": _recorded(low_mel),
        "residual": channels_first(_apply(Generator(config.bwe), extension["generator"], low_mel)),
        "skip": channels_first(filters.upsample_hann(padded, config.bwe.ratio)),
        "waveform": np.asarray(_apply(Vocoder(config), params, mel)),
    }


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "audio_vae.activation1d": _activation,
    "audio_vae.patchify": _patchify,
    "audio_vae.latent_frames": _latent_frames,
    "audio_vae.encode": _encode,
    "audio_vae.encode_waveform": _encode_waveform,
    "audio_vae.decode": _decode,
    "audio_vae.vocoder": _vocoder,
    "audio_vae.vocoder_bwe": _vocoder_bwe,
}
