"""Configuration of training: one frozen dataclass per stage, and the defaults that the toy is trained with."""

import dataclasses
from typing import Literal

from ltx_jax.diffusion.families.network import find_process
from ltx_jax.diffusion.objectives import SigmaConfig
from ltx_jax.errors import require
from ltx_jax.models.dit.transformer import Remat
from ltx_jax.releases import Release
from ltx_jax.training.autoencoders.adversarial import AdversarialConfig
from ltx_jax.training.guard import GuardConfig
from ltx_jax.training.lora import LoRAConfig
from ltx_jax.training.modes import Condition, StreamMode, WeightedMode, parse_mixture
from ltx_jax.training.optimizer import OptimizerConfig, ScheduleConfig

StageName = Literal["video_vae", "audio_vae", "upsampler", "dit"]
STAGES: tuple[StageName, ...] = ("video_vae", "audio_vae", "upsampler", "dit")


def _adamw(rate: float, weight_decay: float = 0.0) -> OptimizerConfig:
    schedule = ScheduleConfig(type="warmup_cosine", warmup_steps=100)
    return OptimizerConfig(learning_rate=rate, schedule=schedule, weight_decay=weight_decay, b2=0.99)


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """What every stage has.

    steps: optimizer updates; `optimizer.steps` always follows it. batch_size: of all devices together. ema_decay: 0
    turns the moving average off. checkpoint_every, log_every, sample_every: in steps; 0: never, but a checkpoint is
    always written at the end, and samples are made there unless never. keep: newest checkpoints that are kept. dtype:
    of the computation; parameters are float32. accumulate: parts that a batch goes through in, one after the other, for
    less memory; the gradients are the same. gradient_dtype: of the gradients of stacked layers' kernels, made and
    summed over the devices in it; bfloat16 halves their memory and traffic and needs dtype bfloat16. guard: which steps
    are refused.
    """

    steps: int = 1000
    batch_size: int = 16
    optimizer: OptimizerConfig = _adamw(1e-3)
    ema_decay: float = 0.999
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 20
    sample_every: int = 1000
    dtype: Literal["float32", "bfloat16"] = "float32"
    accumulate: int = 1
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    guard: GuardConfig = GuardConfig()

    def __post_init__(self):
        require(self.steps >= 1, f"Training needs at least one step, not {self.steps}.")
        require(self.batch_size >= 1, f"The batch size must be at least 1, not {self.batch_size}.")
        require(0 <= self.ema_decay < 1, f"ema_decay must lie in [0, 1), not {self.ema_decay}.")
        require(self.keep >= 1, f"At least one checkpoint must be kept, not {self.keep}.")
        require(self.log_every >= 1, f"log_every must be at least 1, not {self.log_every}.")
        for name in ("checkpoint_every", "sample_every"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, not {getattr(self, name)}.")
        require(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            f"A batch of {self.batch_size} cannot go through in {self.accumulate} equal parts; change accumulate.",
        )
        require(
            self.gradient_dtype == "float32" or self.dtype == "bfloat16",
            "Gradients in bfloat16 (gradient_dtype) come of a computation in bfloat16: set dtype too.",
        )
        object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, steps=self.steps))

    @property
    def other_optimizers(self) -> dict[str, OptimizerConfig]:
        """Optimizers of parts that have their own, by part."""
        return {}


def _check_weights(config: StageConfig, *names: str) -> None:
    for name in names:
        require(getattr(config, name) >= 0, f"{name} must not be negative, not {getattr(config, name)}.")


@dataclasses.dataclass(frozen=True)
class VideoVAEStageConfig(StageConfig):
    """The video encoder and decoder.

    square_weight, gradient_weight, kl_weight: of the squared error, the multi-scale gradient L1 and the KL divergence
    beside the L1 on pixels. (L1 alone prefers a picture without its small things for a long time: its median.)
    window: frames of the random window of each batch that is trained on (1 + k times the time factor), None for whole
    clips; the networks are causal convolutions, so that short windows teach long clips at a fraction of the cost.
    statistics_batches: batches over which the latents' mean and standard deviation are measured at the end.
    adversarial: a discriminator of patches beside the reconstruction, off by default.
    """

    steps: int = 3000
    optimizer: OptimizerConfig = _adamw(1e-3)
    square_weight: float = 2.0
    gradient_weight: float = 1.0
    kl_weight: float = 1e-5
    window: int | None = None
    statistics_batches: int = 32
    adversarial: AdversarialConfig = AdversarialConfig()

    def __post_init__(self):
        super().__post_init__()
        _check_weights(self, "square_weight", "gradient_weight", "kl_weight")
        require(self.statistics_batches >= 1, f"statistics_batches must be at least 1, not {self.statistics_batches}.")

    @property
    def other_optimizers(self) -> dict[str, OptimizerConfig]:
        """That of the discriminator."""
        return {"video_discriminator": dataclasses.replace(self.adversarial.optimizer, steps=self.steps)}


@dataclasses.dataclass(frozen=True)
class AudioVAEStageConfig(StageConfig):
    """The audio encoder and decoder on log-mel, and the vocoder on true log-mel.

    kl_weight: beside the L1 on log-mel. stft_weight, mel_weight, waveform_weight: of the vocoder's losses; the last one
    (the squared error of the samples) only teaches where the mel determines the phase, as in the toy world.
    window: mel frames of the random window of each batch that the autoencoder is trained on (1 + 4 k), None for whole
    clips. segment: mel frames of the random crops that the vocoder learns from. statistics_batches: as for video.
    adversarial: discriminators of the vocoder's waveform by period and by resolution, off by default.
    """

    steps: int = 3000
    optimizer: OptimizerConfig = _adamw(1e-3)
    kl_weight: float = 1e-4
    stft_weight: float = 1.0
    mel_weight: float = 1.0
    waveform_weight: float = 0.0
    window: int | None = None
    segment: int = 48
    statistics_batches: int = 32
    adversarial: AdversarialConfig = AdversarialConfig()

    def __post_init__(self):
        super().__post_init__()
        _check_weights(self, "kl_weight", "stft_weight", "mel_weight", "waveform_weight")
        require(self.segment >= 16, f"The vocoder's segment must be at least 16 mel frames, not {self.segment}.")
        require(self.statistics_batches >= 1, f"statistics_batches must be at least 1, not {self.statistics_batches}.")

    @property
    def other_optimizers(self) -> dict[str, OptimizerConfig]:
        """That of the discriminators."""
        return {"wave_discriminator": dataclasses.replace(self.adversarial.optimizer, steps=self.steps)}


@dataclasses.dataclass(frozen=True)
class UpsamplerStageConfig(StageConfig):
    """The latent upsampler that doubles rows and columns, where the model has one.

    square_weight: of the squared error beside the L1, both on normalised latents.
    """

    steps: int = 2000
    optimizer: OptimizerConfig = _adamw(1e-3)
    square_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        _check_weights(self, "square_weight")


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """Reference videos, of modes that have one: smaller by `downscale`, and every `temporal`-th frame (IC-LoRA)."""

    downscale: int = 1
    temporal: int = 1

    def __post_init__(self):
        factors = (self.downscale, self.temporal)
        require(min(factors) >= 1, f"The factors of a reference must be at least 1, not {factors}.")


@dataclasses.dataclass(frozen=True)
class DiTStageConfig(StageConfig):
    """The transformer, with its text encoder and connectors unless these are frozen.

    mode: a row of training/modes.py; or modes: several, as "NAME:WEIGHT", of which every sample draws one.
    first_frame_probability: keeps the first latent frame clean in modes whose generated video has no condition of its
    own. process: a row of `diffusion.families.network.PROCESSES` to train with, as NAME or NAME:PREDICTION, in place of
    the model's; flow matching alone draws its levels as `sigmas` says. weighting: of the loss by noise level.
    temporal_boundary, spatial_region: of prefixes and suffixes (latent frames) and of outpainting (pixels y1, x1,
    y2, x2), in place of the declared ones. keyframes: stills that come with a clip for modes that append some of them;
    their frames are drawn by clip. stored_masks: masks for inpainting come with the data; else boxes are drawn.
    caption_dropout: share of samples that get the empty caption, for guidance. mark_keyframes: mark the first latent
    frame's tokens where the model has the embedding, as sampling does (the reference trainer does not). train_text:
    train text encoder and connectors along; otherwise batches bring text features and the connectors are frozen. lora:
    train adapters of the frozen transformer alone (train_text is then off). clips: encoded clips to train on, of every
    size. shrink: the sizes of raw clips, as divisors of their height and width; (1, 2) trains clips of half size too,
    which sampling in two stages begins with. remat: what the backward pass recomputes, see models/dit/transformer.py;
    on a CPU the toy's step takes the same time with "full" and with "dots".
    """

    steps: int = 10000
    batch_size: int = 32
    optimizer: OptimizerConfig = _adamw(1e-3, 0.01)
    mode: str = "text_to_video"
    modes: tuple[str, ...] | None = None
    sigmas: SigmaConfig = SigmaConfig()
    first_frame_probability: float = 0.1
    temporal_boundary: int | None = None
    spatial_region: tuple[int, int, int, int] | None = None
    keyframes: int = 2
    stored_masks: bool = False
    process: str | None = None
    weighting: Literal["none", "min_snr"] = "none"
    reference: ReferenceConfig | None = None
    caption_dropout: float = 0.1
    mark_keyframes: bool = True
    train_text: bool = True
    lora: LoRAConfig | None = None
    clips: int = 8192
    shrink: tuple[int, ...] = (1,)
    remat: Remat = "full"

    def __post_init__(self):
        super().__post_init__()
        for name in ("first_frame_probability", "caption_dropout"):
            require(0 <= getattr(self, name) <= 1, f"{name} must lie in 0..1, not {getattr(self, name)}.")
        require(self.keyframes >= 1, f"keyframes must be at least 1, not {self.keyframes}.")
        require(self.clips >= 1, f"Training needs at least one clip, not {self.clips}.")
        sizes = self.shrink
        require(
            sizes and min(sizes) >= 1 and len(set(sizes)) == len(sizes),
            f"training.dit.shrink must name different divisors of at least 1, not {sizes}.",
        )
        boundary = self.temporal_boundary
        require(boundary is None or boundary >= 1, f"temporal_boundary must be at least 1, not {boundary}.")
        self.mixture()
        if self.process is not None:
            find_process(self.process)
        if self.lora is not None:
            object.__setattr__(self, "train_text", False)

    def released(self, release: Release) -> Release:
        """The release of what the stage makes of `release`: it knows the process that it was trained with."""
        return release if self.process is None else dataclasses.replace(release, process=self.process)

    def mixture(self) -> tuple[WeightedMode, ...]:
        """The declared modes with their weights, and the first-frame condition where it belongs."""
        return tuple(self._with_first_frame(share) for share in parse_mixture(self.modes or (self.mode,)))

    def reference_metadata(self) -> dict[str, str]:
        """What a LoRA file says of the references that it was trained with; the loaders assume 1 (5.7)."""
        small, metadata = self.reference or ReferenceConfig(), {}
        if small.downscale != 1:
            names = ("reference_spatial_scale_factor", "reference_downscale_factor")
            metadata |= dict.fromkeys(names, str(small.downscale))
        if small.temporal != 1:
            metadata["reference_temporal_scale_factor"] = str(small.temporal)
        return metadata

    def _with_first_frame(self, share: WeightedMode) -> WeightedMode:
        video = share.mode.video
        if not self.first_frame_probability or video is None or not video.is_generated or video.conditions:
            return share
        first = Condition("first_frame", probability=self.first_frame_probability)
        mode = dataclasses.replace(share.mode, video=StreamMode(True, (first,)))
        return dataclasses.replace(share, mode=mode)


@dataclasses.dataclass(frozen=True)
class PreviewConfig:
    """What the samples show that the transformer's stage writes of itself: a clip of each prompt."""

    prompts: tuple[str, ...] = ("a red circle", "a blue square", "a green triangle", "a yellow diamond")

    def __post_init__(self):
        require(bool(self.prompts), "There is no prompt in training.preview.prompts; sample_every=0 shows nothing.")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """All stages, what is shown of them, and the one seed from which every draw follows."""

    seed: int = 0
    preview: PreviewConfig = PreviewConfig()
    video_vae: VideoVAEStageConfig = VideoVAEStageConfig()
    audio_vae: AudioVAEStageConfig = AudioVAEStageConfig()
    upsampler: UpsamplerStageConfig = UpsamplerStageConfig()
    dit: DiTStageConfig = DiTStageConfig()

    def stage(self, name: StageName) -> StageConfig:
        """The config of a stage by its name."""
        stages = {"video_vae": self.video_vae, "audio_vae": self.audio_vae, "upsampler": self.upsampler}
        return self.dit if name == "dit" else stages[name]
