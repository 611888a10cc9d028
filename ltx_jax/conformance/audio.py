"""Recorded cases of audio signal processing (spec audio_vae.md sections 2, 3 and 7). Recordings are channels-first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.errors import UserError
from ltx_jax.media import audio
from ltx_jax.models.audio_vae import filters, mel
from ltx_jax.models.audio_vae.config import AudioVAEConfig

Outputs = dict[str, np.ndarray]


def _mel(case: Case) -> Outputs:
    c = case.config
    config = AudioVAEConfig(
        sampling_rate=c["sampling_rate"],
        filter_length=c["filter_length"],
        hop_length=c["hop_length"],
        mel_bins=c["n_mel_channels"],
    )
    log_mel = jax.jit(mel.log_mel, static_argnums=1)(case.inputs["waveform"], config)
    return {
        "log_mel": np.asarray(log_mel).transpose(0, 3, 1, 2),
        "filterbank": mel.mel_filterbank(config.filter_length, config.mel_bins, config.sampling_rate),
        "window": mel.hann_window(config.filter_length),
    }


def _resample(case: Case) -> Outputs:
    c = case.config
    if c.get("resampling_method", "sinc_interp_hann") != "sinc_interp_hann":
        raise UserError(f"The resampling method '{c['resampling_method']}' is not supported; use 'sinc_interp_hann'.")
    rates = (c["orig_freq"], c["new_freq"])
    options = {"lowpass_width": c.get("lowpass_filter_width", 6), "rolloff": c.get("rolloff", 0.99)}
    waveform = np.stack([audio.resample(w, *rates, **options) for w in case.inputs["waveform"]])
    return {"waveform": waveform, "kernel": audio.resample_kernel(*rates, **options)}


def _resample_filter(case: Case) -> Outputs:
    ratio, x = case.config["ratio"], jnp.asarray(case.inputs["x"]).transpose(0, 2, 1)
    if case.config["window_type"] == "hann":
        taps, y = filters.hann_upsampler(ratio), filters.upsample_hann(x, ratio)
    else:
        taps = filters.kaiser_resampler(ratio, case.config["kernel_size"])
        y = filters.upsample(x, taps, ratio)
    return {"filter": taps, "y": np.asarray(y).transpose(0, 2, 1)}


def _kaiser_lowpass(case: Case) -> Outputs:
    c = case.config
    taps = filters.kaiser_lowpass(c["kernel_size"], c["cutoff"], c["half_width"])
    y = filters.downsample(jnp.asarray(case.inputs["x"]).transpose(0, 2, 1), taps, c["stride"])
    return {"filter": taps, "y": np.asarray(y).transpose(0, 2, 1)}


def _downmix(case: Case) -> Outputs:
    return {"waveform": audio.to_stereo(case.inputs["waveform"])}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "audio.pcm16": lambda case: {"samples": audio.pcm16(case.inputs["waveform"]).T},
    "audio.mel": _mel,
    "audio.resample": _resample,
    "audio.resample_filter": _resample_filter,
    "audio.kaiser_lowpass": _kaiser_lowpass,
    "audio.downmix": _downmix,
}
