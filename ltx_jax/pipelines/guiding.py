"""The part of a request that says how steps are taken and guided (spec sampling.md 5 to 7, 11, 15)."""

import dataclasses
import math

import numpy as np

from ltx_jax.diffusion import schedules
from ltx_jax.diffusion.guidance import RULES, Guidance, GuidanceTable
from ltx_jax.diffusion.schedules import SCHEDULES
from ltx_jax.diffusion.steppers import STEPPERS
from ltx_jax.errors import require
from ltx_jax.pipelines.fields import setting

_NOT_NEGATIVE = (
    "cfg", "audio_cfg", "rescale", "audio_rescale", "stg", "audio_stg", "modality", "audio_modality", "skip_step",
    "audio_skip_step", "schedule_tokens", "eta", "churn", "snr", "reuse", "apg_norm", "apg_momentum",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guiding:
    """Schedule, stepper and guidance. None means the release's default; of the sound, what the picture has."""

    steps: int | None = setting(None, "Denoising steps (also --num-inference-steps).", official="num_inference_steps")
    schedule: str | None = setting(None, f"Noise levels of the steps: {', '.join(SCHEDULES)}.")
    schedule_tokens: int | None = setting(None, "Token count that shifts the schedule.")
    sigmas: tuple[float, ...] | None = setting(
        None, "Noise levels of your own in the place of a schedule, falling to 0: S1,S2,...,0."
    )
    stepper: str | None = setting(None, f"How steps are taken: {', '.join(STEPPERS)}.")
    eta: float | None = setting(None, "How much of the noise is drawn anew in a step, by the steppers that do so.")
    churn: float | None = setting(None, "How much noise is added again in all, by the stepper edm; 0: none.")
    snr: float | None = setting(
        None, "Of the steps at a level, by predictor_corrector: the score's norm to the noise's."
    )
    cfg: float | None = setting(
        None, "Guidance scale by the text; 1 turns guidance off.", official="video_cfg_guidance_scale"
    )
    cfg_every: int | None = setting(
        None, "For how many steps the difference between the texts guides that one of them finds; 2 saves passes."
    )
    reuse: float = setting(
        0.0, "Take what the blocks added last while the noise level moves less than this, an angle; 0.1 saves a third."
    )
    audio_cfg: float | None = setting(
        None, "Guidance scale of the sound (default: as cfg where that is given).", official="audio_cfg_guidance_scale"
    )
    rescale: float | None = setting(
        None, "Share of the guided spread that is set back to the unguided one.", official="video_rescale_scale"
    )
    audio_rescale: float | None = setting(None, "The same of the sound.", official="audio_rescale_scale")
    stg: float | None = setting(
        None, "Guidance away from what the model makes with self-attention skipped in some blocks.",
        official="video_stg_guidance_scale",
    )  # fmt: skip
    audio_stg: float | None = setting(None, "The same of the sound.", official="audio_stg_guidance_scale")
    stg_blocks: tuple[int, ...] | None = setting(
        None, "Those blocks, counted from 0: N [N ...].", official="video_stg_blocks"
    )
    audio_stg_blocks: tuple[int, ...] | None = setting(None, "The same of the sound.")
    modality: float | None = setting(
        None, "Guidance of the picture away from what the model makes without hearing the sound; 1 is off.",
        official="a2v_guidance_scale",
    )  # fmt: skip
    audio_modality: float | None = setting(
        None, "Guidance of the sound away from what the model makes without seeing the picture; 1 is off.",
        official="v2a_guidance_scale",
    )  # fmt: skip
    skip_step: int | None = setting(
        None, "After each step of the picture that is computed reuse its prediction so often.",
        official="video_skip_step",
    )  # fmt: skip
    audio_skip_step: int | None = setting(None, "The same of the sound.")
    guidance_range: tuple[float, float] | None = setting(
        None, "Noise levels between which guidance acts: LOW HIGH, both in 0..1."
    )
    guidance_rule: str | None = setting(None, f"How the text guides: {', '.join(RULES)}.")
    apg_eta: float | None = setting(None, "Of the apg rules: how much of the part along the prediction is kept.")
    apg_norm: float | None = setting(None, "Of the apg rules: the largest norm of the direction; 0: any.")
    apg_momentum: float | None = setting(None, "Of apg_stateful: how much of earlier directions is kept.")

    def check_guiding(self) -> None:
        """Raise UserError for a setting that makes no sense."""
        for name in ("steps", "cfg_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} is {value}, but must be at least 1.")
        choices = {"schedule": SCHEDULES, "stepper": STEPPERS, "guidance_rule": RULES}
        words = {"schedule": "schedule", "stepper": "stepper", "guidance_rule": "guidance rule"}
        for name, known in choices.items():
            value = getattr(self, name)
            require(
                value is None or value in known,
                f"There is no {words[name]} '{value}'; choose one of {', '.join(known)}.",
            )
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            require(value is None or value >= 0, f"{name} is {value}, but must not be negative.")
        for name in ("rescale", "audio_rescale"):
            value = getattr(self, name)
            require(value is None or value <= 1, f"{name} is {value}, but must lie in 0..1.")
        for name in ("stg_blocks", "audio_stg_blocks"):
            value = getattr(self, name) or ()
            require(all(n >= 0 for n in value), f"{name} names block {min(value, default=0)}, but they count from 0.")
        low, high = self.guidance_range or (0.0, 1.0)
        require(
            0 <= low < high <= 1,
            f"guidance_range is {low:g} to {high:g}, but must be two noise levels in 0..1, the lower one first.",
        )
        for option, _ in self._options():
            taking = [name for name, row in STEPPERS.items() if option in row.options]
            chosen = self.stepper or "euler"
            require(
                chosen in taking, f"{option} does nothing with the stepper '{chosen}': use one of {', '.join(taking)}."
            )
        self._check_sigmas()

    def _check_sigmas(self) -> None:
        if self.sigmas is None:
            return
        levels = np.array(self.sigmas)
        falling = len(levels) > 1 and bool(np.all(np.diff(levels) < 0)) and levels[0] <= 1 and levels[-1] == 0
        require(falling, "sigmas must be two or more falling numbers, from 1 at most down to 0.")
        taken = [name for name in ("steps", "schedule", "schedule_tokens") if getattr(self, name) is not None]
        require(not taken, f"sigmas and {' and '.join(taken)} are given: leave one of both out.")

    def levels(self, tokens: int | None = None) -> tuple[float, ...]:
        """The noise levels of a resolved request. tokens: of the shift, where the request says none."""
        if self.sigmas is not None:
            return self.sigmas
        assert self.schedule is not None and self.steps is not None
        tokens = tokens if self.schedule_tokens is None else self.schedule_tokens
        return tuple(schedules.schedule(self.schedule, self.steps, tokens).tolist())

    def stepping(self) -> dict:
        """Stepper and its options, as a stage takes them."""
        return {"stepper": self.stepper or "euler", "options": self._options(), "reuse": self.reuse}

    def _options(self) -> tuple[tuple[str, float], ...]:
        given = ((name, getattr(self, name)) for name in ("eta", "churn", "snr"))
        return tuple((name, value) for name, value in given if value is not None)

    def guides(self) -> tuple[Guidance | GuidanceTable, Guidance | GuidanceTable]:
        """Guidance of picture and sound of a resolved request."""
        return self._guide(""), self._guide("audio_")

    def _guide(self, prefix: str) -> Guidance | GuidanceTable:
        def of(name: str):
            own = getattr(self, prefix + name)
            return getattr(self, name) if own is None else own

        settings = {
            "cfg_scale": of("cfg"), "stg_scale": of("stg"), "stg_blocks": of("stg_blocks"),
            "modality_scale": of("modality"), "rescale_scale": of("rescale"), "skip_step": of("skip_step"),
            "rule": self.guidance_rule, "cfg_every": self.cfg_every,
            "eta": self.apg_eta, "norm_threshold": self.apg_norm, "momentum": self.apg_momentum,
        }  # fmt: skip
        guide = Guidance(**{name: value for name, value in settings.items() if value is not None})
        if self.guidance_range is None:
            return guide
        low, high = self.guidance_range
        neutral = Guidance(cfg_scale=0.0 if guide.rule == "apg_stateful" else 1.0, rule=guide.rule)
        rows = ((math.inf, neutral), (high, guide), (low, neutral))
        return GuidanceTable(rows if low > 0 else rows[:2])
