"""Objectives of the two autoencoders and of the vocoder, and the statistics of their latents.

No losses are published for these networks; the ones here are ours: L1 on what is seen or heard, differences at
several scales against blur, a small KL divergence, and adversarial terms where a discriminator is trained along.
Letters: B batch, F/h/w frames and pixels, C channels, M mel frames, L samples of a waveform.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.bundle import Networks
from ltx_jax.codec import audio_means, to_unit, video_means
from ltx_jax.diffusion.geometry import patchify_audio
from ltx_jax.errors import require
from ltx_jax.models.audio_vae.config import AudioVAEConfig
from ltx_jax.models.audio_vae.mel import log_mel, stft_magnitude
from ltx_jax.models.latents import clip_log_variance, sample_latents
from ltx_jax.releases import Release
from ltx_jax.rng import named_key, normal
from ltx_jax.training.autoencoders.adversarial import adversarial_terms
from ltx_jax.training.config import AudioVAEStageConfig, VideoVAEStageConfig
from ltx_jax.training.step import Metrics, Microbatch, completed, sample_keys

Array = jax.Array
Batch = dict[str, Array]

VIDEO_PARTS = ("video_encoder", "video_decoder")
AUDIO_PARTS = ("audio_encoder", "audio_decoder", "vocoder")
SCALES = (1, 2, 4)  # pixels averaged, for the gradient loss
RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))  # (n_fft, hop) of the STFT loss
STFT_FLOOR = 1e-3
WAVEFORM_FLOOR = 1e-4  # mean square: what is quieter counts less


@dataclasses.dataclass(frozen=True)
class VideoVAEObjective:
    """Reconstruction of clips {"video": uint8 (B, F, h, w, 3)}."""

    networks: Networks
    config: VideoVAEStageConfig
    seed: int

    def __call__(self, params: Any, frozen: Any, batch: Batch, at: Array | Microbatch) -> tuple[Array, Metrics]:
        """The weighted loss, () float32, and its terms with the PSNR in dB."""
        del frozen
        video = to_unit(self._window(batch["video"], completed(at)))
        mean, log_variance = self.networks.apply(params, "video_encoder", video)
        latents = reparameterize(mean, log_variance, sample_keys(self.seed, "video_vae", at, video.shape[0]))
        output = self.networks.apply(params, "video_decoder", latents).astype(jnp.float32)
        kl = jnp.mean(kl_divergence(mean, log_variance))
        loss, terms = self._reconstruction(output, video)
        error = jnp.mean(jnp.square(jnp.clip(output, -1, 1) - video))  # of a range of 2
        terms |= {"kl": kl, "psnr": 10 * jnp.log10(4 / jnp.maximum(error, 1e-10))}
        loss = loss + self.config.kl_weight * kl
        if "video_discriminator" in params:
            judge = lambda of, x: [[self.networks.apply({"video_discriminator": of}, "video_discriminator", x)]]
            more, figures = adversarial_terms(
                judge, params["video_discriminator"], output, video, lambda x: self._reconstruction(x, video)[0],
                completed(at), self.config.adversarial,
            )  # fmt: skip
            loss, terms = loss + more, terms | figures
        return loss, terms

    def _reconstruction(self, output: Array, video: Array) -> tuple[Array, Metrics]:
        """The weighted sum of what is compared with the truth, and its terms."""
        l1, gradient = jnp.mean(jnp.abs(output - video)), gradient_loss(output, video)
        c, square = self.config, jnp.mean(jnp.square(output - video))
        loss = l1 + c.square_weight * square + c.gradient_weight * gradient
        return loss, {"l1": l1, "square": square, "gradient": gradient}

    def _window(self, video: Array, step: Array) -> Array:
        """The frames to train on, (B, window, h, w, 3): one start for the whole batch."""
        size = video.shape[1] if self.config.window is None else self.config.window
        key = named_key(self.seed, "video_vae.window", step)
        start = jax.random.randint(key, (), 0, video.shape[1] - size + 1)
        return jax.lax.dynamic_slice_in_dim(video, start, size, axis=1)


def check_video_stage(release: Release, config: VideoVAEStageConfig, frames: int) -> None:
    """Raise UserError unless the window fits clips of `frames` frames and the video VAE."""
    require(
        release.video_vae.diffusion is None,
        f"The video VAE of {release.name} has a diffusion decoder, which cannot be trained here: choose a model with a "
        "convolutional one.",
    )
    time = release.video_vae.scale_factors[0]
    window = frames if config.window is None else config.window
    require(
        1 <= window <= frames and (window - 1) % time == 0,
        f"training.video_vae.window is {window}, but must be 1 + k x {time} and at most the clips' {frames} frames.",
    )


@dataclasses.dataclass(frozen=True)
class AudioVAEObjective:
    """Reconstruction of the log-mel of {"audio": float32 (B, 2, L), "has_audio": (B,) bool}, and its vocoder.

    The vocoder learns on random crops of the true log-mel. Clips without sound are in no loss.
    """

    networks: Networks
    config: AudioVAEStageConfig
    seed: int

    def __call__(self, params: Any, frozen: Any, batch: Batch, at: Array | Microbatch) -> tuple[Array, Metrics]:
        """The weighted loss, () float32, and its terms."""
        del frozen
        waveform, weight = batch["audio"], sample_weights(batch["has_audio"])
        whole = log_mel(waveform, self.audio)
        mel = self._window(whole, completed(at))
        mean, log_variance = self.networks.apply(params, "audio_encoder", mel)
        latents = reparameterize(mean, log_variance, sample_keys(self.seed, "audio_vae", at, mel.shape[0]))
        output = self.networks.apply(params, "audio_decoder", latents)
        frames = min(output.shape[1], mel.shape[1])
        terms = {
            "mel": per_sample(jnp.abs(output[:, :frames] - mel[:, :frames])),
            "kl": per_sample(kl_divergence(mean, log_variance)),
        }
        heard, truth = self._vocoder_pair(params, waveform, whole, at)
        means = _weighted_means(terms | self._vocoder_terms(heard, truth), weight)
        loss = self._total(means)
        if "wave_discriminator" in params:
            judge = lambda of, x: self.networks.apply({"wave_discriminator": of}, "wave_discriminator", x)
            given = (weight > 0)[:, None, None]  # clips without sound are silence on both sides, which teaches nothing
            more, figures = adversarial_terms(
                judge, params["wave_discriminator"], jnp.where(given, heard, 0), jnp.where(given, truth, 0),
                lambda x: self._total(_weighted_means(self._vocoder_terms(x, truth), weight)), completed(at),
                self.config.adversarial,
            )  # fmt: skip
            loss, means = loss + more, means | figures
        return loss, means

    def _total(self, means: dict[str, Array]) -> Array:
        c = self.config
        weights = {
            "mel": 1.0, "kl": c.kl_weight, "vocoder_stft": c.stft_weight, "vocoder_mel": c.mel_weight,
            "vocoder_waveform": c.waveform_weight,
        }  # fmt: skip
        return sum((weights[n] * m for n, m in means.items()), jnp.float32(0))

    @property
    def audio(self) -> AudioVAEConfig:
        """The configuration of the mel front end."""
        return self.networks.release.audio_vae

    def _window(self, mel: Array, step: Array) -> Array:
        """The mel frames to train the autoencoder on, (B, window, bins, 2): one start for the whole batch."""
        size = mel.shape[1] if self.config.window is None else self.config.window
        key = named_key(self.seed, "audio_vae.window", step)
        start = jax.random.randint(key, (), 0, mel.shape[1] - size + 1)
        return jax.lax.dynamic_slice_in_dim(mel, start, size, axis=1)

    def _vocoder_pair(self, params: Any, waveform: Array, mel: Array, at: Array | Microbatch) -> tuple[Array, Array]:
        """What the vocoder makes of a random segment of each true log-mel, and the truth: each (B, 2, samples)."""
        hop, segment = self.audio.hop_length, self.config.segment
        keys = sample_keys(self.seed, "vocoder", at, mel.shape[0])
        last = waveform.shape[-1] // hop - segment
        starts = jax.vmap(lambda key: jax.random.randint(key, (), 0, last + 1))(keys)
        cut = lambda x, start, size, axis: jax.lax.dynamic_slice_in_dim(x, start, size, axis)
        mel = jax.vmap(lambda x, s: cut(x, s, segment, 0))(mel, starts)  # (B, segment, bins, 2)
        truth = jax.vmap(lambda x, s: cut(x, s * hop, segment * hop, 1))(waveform, starts)  # (B, 2, segment * hop)
        return self.networks.apply(params, "vocoder", mel).astype(jnp.float32), truth

    def _vocoder_terms(self, output: Array, truth: Array) -> dict[str, Array]:
        """Terms per sample, each (B,)."""
        return {
            "vocoder_stft": stft_loss(output, truth),
            "vocoder_mel": per_sample(jnp.abs(log_mel(output, self.audio) - log_mel(truth, self.audio))),
            "vocoder_waveform": waveform_loss(output, truth),
        }


def check_audio_stage(release: Release, config: AudioVAEStageConfig, samples: int) -> None:
    """Raise UserError unless autoencoder and vocoder can learn from clips of `samples` samples."""
    audio, vocoder = release.audio_vae, release.vocoder
    require(
        vocoder.sampling_rate == audio.sampling_rate,
        f"Training the vocoder needs its rate ({vocoder.sampling_rate} Hz) to be that of the audio VAE "
        f"({audio.sampling_rate} Hz).",
    )
    available = samples // audio.hop_length
    require(
        config.segment <= available,
        f"The vocoder's segment of {config.segment} mel frames is longer than the clips ({available}); "
        "lower training.audio_vae.segment or use longer clips.",
    )
    window = 1 if config.window is None else config.window
    require(
        1 <= window <= available + 1 and window % 4 == 1,
        f"training.audio_vae.window is {window}, but must be 1 + k x 4 and at most {available + 1} mel frames.",
    )


# --- terms ----------------------------------------------------------------------------------------------------------


def reparameterize(mean: Array, log_variance: Array, keys: Array) -> Array:
    """A draw from the moments, float32; one key per sample."""
    noise = jax.vmap(lambda key: normal(key, mean.shape[1:]))(keys)
    return sample_latents(mean, log_variance, noise)


def kl_divergence(mean: Array, log_variance: Array) -> Array:
    """KL of N(mean, variance) against N(0, 1) per latent number, float32, of the shape of `mean`."""
    log_variance = clip_log_variance(log_variance)
    return 0.5 * (jnp.square(mean.astype(jnp.float32)) + jnp.exp(log_variance) - 1 - log_variance)


def gradient_loss(output: Array, target: Array) -> Array:
    """L1 between the differences of neighbouring frames, rows and columns, at three scales; (B, F, h, w, 3) -> ()."""
    total = jnp.zeros((), jnp.float32)
    for scale in SCALES:
        error = _pooled(output - target, scale)  # differences are linear: take them of the error
        total += sum((jnp.mean(jnp.abs(jnp.diff(error, axis=axis))) for axis in (1, 2, 3)), jnp.float32(0))
    return total / (3 * len(SCALES))


def stft_loss(output: Array, target: Array) -> Array:
    """Spectral convergence plus L1 of log magnitudes, averaged over three resolutions; (B, 2, L) -> (B,)."""
    total = jnp.zeros(output.shape[:1], jnp.float32)
    for n_fft, hop in RESOLUTIONS:
        ours, truth = stft_magnitude(output, n_fft, hop), stft_magnitude(target, n_fft, hop)
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2, 3)) + STFT_FLOOR)
        total += norm(ours - truth) / norm(truth)
        total += per_sample(jnp.abs(jnp.log(ours + STFT_FLOOR) - jnp.log(truth + STFT_FLOOR)))
    return total / len(RESOLUTIONS)


def waveform_loss(output: Array, target: Array) -> Array:
    """Squared error in shares of the target's power; (B, 2, L) -> (B,). For sounds whose phase can be foretold."""
    return per_sample(jnp.square(output - target)) / (per_sample(jnp.square(target)) + WAVEFORM_FLOOR)


def _weighted_means(terms: dict[str, Array], weight: Array) -> dict[str, Array]:
    """Means of terms per sample (B,) over the samples of weight above zero; the others' values do not count at all."""
    return {name: jnp.sum(weight * jnp.where(weight > 0, term, 0)) for name, term in terms.items()}


def per_sample(x: Array) -> Array:
    """Mean over all but the first axis."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def sample_weights(chosen: Array) -> Array:
    """(B,) weights that average over the chosen samples; all zero where there is none."""
    return chosen / jnp.maximum(jnp.sum(chosen), 1)


def _pooled(video: Array, scale: int) -> Array:
    """Means over scale x scale pixels; a rest at the bottom and the right is cut."""
    if scale == 1:
        return video
    b, f, h, w, c = video.shape
    rows, columns = h // scale, w // scale
    video = video[:, :, : rows * scale, : columns * scale]
    return video.reshape(b, f, rows, scale, columns, scale, c).mean((3, 5))


# --- statistics of latents ------------------------------------------------------------------------------------------


def latent_statistics(
    moments: Callable[[Any], tuple[Array, Array, Array]], batches: Iterable[Any]
) -> dict[str, np.ndarray]:
    """{"mean", "std"} per channel, float32 (C,), over batches; sums are added up in float64.

    moments(batch) -> sum (C,), sum of squares (C,), count (). Raises UserError when no latent was counted.
    """
    total, squares, count = 0.0, 0.0, 0.0
    for batch in batches:
        s, q, n = (np.asarray(x, np.float64) for x in moments(batch))
        total, squares, count = total + s, squares + q, count + n
    require(bool(np.all(count > 0)), "No clip has any sound, so the audio latents have no statistics to measure.")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return {"mean": np.asarray(mean, np.float32), "std": np.asarray(std, np.float32)}


def video_moments(networks: Networks, params: Any, batch: Batch) -> tuple[Array, Array, Array]:
    """Sums over the latent means of a batch, per channel."""
    means = video_means(networks, params, to_unit(batch["video"]))
    return _sums(means.reshape(means.shape[0], -1, means.shape[-1]), jnp.ones(means.shape[:1]))


def audio_moments(networks: Networks, params: Any, batch: Batch) -> tuple[Array, Array, Array]:
    """Sums over the latent means of the clips with sound, per feature of a token (width Z * f, channel-major)."""
    means = audio_means(networks, params, batch["audio"])
    return _sums(patchify_audio(means), batch["has_audio"].astype(jnp.float32))


def _sums(tokens: Array, weight: Array) -> tuple[Array, Array, Array]:
    """tokens (B, T, C), weight (B,)."""
    tokens = tokens.astype(jnp.float32)
    weighted = lambda x: jnp.einsum("btc,b->c", x, weight, precision=jax.lax.Precision.HIGHEST)
    return weighted(tokens), weighted(jnp.square(tokens)), jnp.sum(weight) * tokens.shape[1]
