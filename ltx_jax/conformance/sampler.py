"""Recorded loops of the sampler with stand-in networks: trajectories, batches of passes (spec sampling.md 6, 7).

The sampler runs without compilation, so that what it hands to the network can be written down.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.conformance.diffusion import state_of
from ltx_jax.diffusion import sample
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.errors import require
from ltx_jax.pipelines.stages import velocity_predictor
from ltx_jax.streams import MODALITIES, Array, Rotary, Stream

Outputs = dict[str, Any]

# Recorded names of the loops' numbers and ours, of those that the loops have.
OPTIONS = {"eta": "eta", "s_noise": "s_noise", "ge_gamma": "gamma", "substep_eta": "substep_eta"}
STEPPERS = {"res2s": "res_2s"}
FIXED = {"c2": 0.5, "minimal_sigma": 0.0011}


def _trajectory(case: Case) -> Outputs:
    """A whole loop with x0 = a x + b + c timesteps in the place of the network."""
    c = case.config
    names = [m for m in MODALITIES if f"{m}_latent" in case.inputs]
    calls: dict[str, list[Array]] = {m: [] for m in names}
    sigmas: list[Array] = []

    def predict(video: Stream | None, audio: Stream | None, passes: tuple[str, ...], keep: Array | None) -> Any:
        streams = {m: s for m, s in zip(MODALITIES, (video, audio), strict=True) if s is not None}
        for m, stream in streams.items():
            calls[m].append(stream.latent[: len(case.inputs[f"{m}_latent"])])
        sigmas.append(next(iter(streams.values())).sigma[0])
        return tuple(_linear(case, m, streams[m], passes) if m in streams else None for m in MODALITIES)

    def noise(kind: str, name: str, track: sample.StreamState, i: Array) -> Array:
        return recorded_noise(case, f"{name}_{kind}_noise" if c["method"] == "res2s" else f"{name}_noise", track, i)

    plan = sample.make_plan(np.asarray(c["sigmas"]), **method_of(c))
    state = sample.prepare(sample.SamplerState(**{m: _track(case, m) for m in names}), plan)
    with jax.disable_jit():
        state = sample.run(predict, state, plan, 0, len(plan.sigmas) - 1, noise)
    outputs = {f"{m}_calls": jnp.stack(calls[m]) for m in names}
    return {**outputs, **{f"{m}_final": track.latent for m, track in state.tracks.items()}, "call_sigmas": sigmas}


def recorded_noise(case: Case, name: str, track: sample.StreamState, i: Array) -> Array:
    """The i-th draw of that name; zeros where none was recorded, since nothing was drawn."""
    drawn = case.inputs.get(name)
    return jnp.zeros(track.latent.shape) if drawn is None else jnp.asarray(drawn)[i]


def method_of(config: dict[str, Any]) -> dict[str, Any]:
    """Stepper and options of a recorded loop."""
    for name, value in FIXED.items():
        require(config.get(name, value) == value, f"{name} is {config.get(name)}, but only {value} is known.")
    stepper = STEPPERS.get(config["method"], config["method"])
    options = {ours: config[theirs] for theirs, ours in OPTIONS.items() if theirs in config}
    if stepper == "res_2s":
        options["refinements"] = config.get("bongmath_max_iter", 100) if config.get("bongmath", True) else 0
        stepper = stepper if config.get("legacy_mode", True) else "res_2s_per_token"
    return {"stepper": stepper, "options": options}


def _linear(case: Case, name: str, stream: Stream, passes: tuple[str, ...]) -> Array:
    own, rows = case.config["denoiser"][name], stream.latent.shape[0] // len(passes)
    a = {"uncond": own.get("a_uncond")}
    b = {"uncond": case.inputs.get(f"{name}_b_uncond")}
    x0 = [
        a.get(p, own["a"]) * stream.latent[i * rows : (i + 1) * rows] + b.get(p, case.inputs[f"{name}_b"])
        for i, p in enumerate(passes)
    ]
    return jnp.concatenate(x0) + own["c"] * stream.timesteps()[..., None]


def _track(case: Case, name: str) -> sample.StreamState:
    state = state_of(*(case.inputs[f"{name}_{k}"] for k in ("latent", "clean", "mask")))
    return sample.make_track(state, nowhere(state.latent.shape[1]))


def nowhere(tokens: int) -> Rotary:
    """Tables of tokens without positions, which stand-in networks do not read."""
    return Rotary((), (), jnp.zeros((1, tokens, 0), jnp.int32))


# --- passes side by side --------------------------------------------------------------------------------------------


def guidance_of(params: dict[str, Any] | None) -> Guidance:
    """Recorded guidance of a modality; None is neutral."""
    params = dict(params or {})
    blocks = params.pop("stg_blocks", None)
    return Guidance(**params, stg_blocks=None if blocks is None else tuple(blocks))


class StandIn:
    """A network with the transformer's arguments that predicts x0 by a formula, and writes down what it is given."""

    def __init__(self, formula: Callable[..., Array]):
        """formula(name, stream, other, text, keep) -> x0 (rows, T, C), of a modality's stream beside the other one."""
        self.formula, self.calls = formula, []

    def apply(self, params: Any, video: Any, audio: Any, video_text: Any, audio_text: Any, keep: Any) -> Any:
        """x0 of both streams."""
        self.calls.append({"video": video, "audio": audio, "texts": (video_text, audio_text), "keep": keep})
        of = lambda m, s, o, t: None if s is None else self.formula(m, s, o, t.tokens, keep)
        return of("video", video, audio, video_text), of("audio", audio, video, audio_text)

    def predictor(self, case: Case) -> sample.PredictX0:
        """The network with the case's texts bound, by the code that binds them to the transformer."""
        text = lambda m, kind: case.inputs.get(f"{m}_{kind}", case.inputs.get(f"{m}_context"))
        texts = {side: tuple(text(m, kind) for m in MODALITIES) for side, kind in _TEXTS.items()}
        some = next(t for t in texts["positive"] if t is not None)  # an absent modality reads nothing of it
        texts: Any = {side: tuple(jnp.asarray(some if t is None else t) for t in pair) for side, pair in texts.items()}
        networks: Any = {"transformer": self}
        return velocity_predictor(networks, {"transformer": None}, texts)


_TEXTS = {"positive": "context", "negative": "negative_context"}


def kept(keep: Array | None, weights: Array) -> Array | float:
    """1 + the sum of weights (4, L) of the attentions that run, (rows, 1, 1); keep (4, L, rows) or None for all."""
    if keep is None:
        return 1 + jnp.sum(weights)
    return 1 + jnp.einsum("tlr,tl->r", keep, weights)[:, None, None]


def _guided_denoiser(case: Case) -> Outputs:
    """Guided steps on the same states: the first call's rows, and every step's x0 before it is blended."""
    c = case.config
    names = [m for m in MODALITIES if f"{m}_latent" in case.inputs]

    def formula(name: str, stream: Stream, other: Stream | None, text: Array, keep: Array | None) -> Array:
        seen = jnp.mean(text, axis=1, keepdims=True)[:, :, : stream.latent.shape[2]]
        x0 = 0.5 * stream.latent + 0.3 * seen + 0.2 * stream.timesteps()[..., None] + 0.1 * stream.sigma[:, None, None]
        x0 = x0 * kept(keep, jnp.asarray(case.inputs[f"keep_weight_{name}"]))
        return x0 if other is None else x0 + 0.05 * jnp.mean(other.latent, axis=(1, 2), keepdims=True)

    network, state = StandIn(formula), sample.SamplerState(**{m: _masked(case, m) for m in names})
    guides = [guidance_of(c.get(f"{m}_params")) if m in names else None for m in MODALITIES]
    # rows that reach the negative text whatever guides are those of the stepper that needs them
    stepper = "euler_cfg_pp" if c.get("force_uncond_pass") else "euler"
    sigmas = np.linspace(c["sigma"], 0, max(c["steps"]) + 2)
    plan = sample.make_plan(sigmas, *guides, blocks=c["num_blocks"], whole_batch=True, stepper=stepper)
    state, outputs, counts = sample.prepare(state, plan), {}, []
    with jax.disable_jit():
        for k, i in enumerate(c["steps"]):
            before = len(network.calls)
            state, seen = sample.denoise(network.predictor(case), state, plan, jnp.int32(i), jnp.float32(c["sigma"]))
            # the reference also calls the network for a modality that skips alone, without use (6.4)
            counts.append(len(network.calls) - before or int(len(names) == 1))
            outputs |= {f"{m}_denoised_{k}": seen[m].guided for m in names}
    return {**outputs, **_rows(network.calls[0], names, c["num_blocks"]), "network_calls": np.array(counts)}


def _masked(case: Case, name: str) -> sample.StreamState:
    latent, bias = case.inputs[f"{name}_latent"], case.inputs.get(f"{name}_attention_mask")
    track = sample.make_track(state_of(latent, latent, case.inputs[f"{name}_mask"]), nowhere(latent.shape[1]))
    stream = track.stream.replace(bias=None if bias is None else jnp.asarray(bias)[:, None])
    return track.replace(stream=stream)


def _rows(call: dict[str, Any], names: list[str], blocks: int) -> Outputs:
    """What one call of the network was given, pass-major."""
    outputs: Outputs = {}
    for name, text in zip(MODALITIES, call["texts"], strict=True):
        if name not in names:
            continue
        stream = call[name]
        given = {
            "latent": stream.latent, "timesteps": stream.timesteps()[..., None], "sigma": stream.sigma,
            "context": text.tokens, "attention_mask": None if stream.bias is None else stream.bias[:, 0],
        }  # fmt: skip
        outputs |= {f"{name}_batched_{key}": value for key, value in given.items() if value is not None}
    rows = len(outputs[f"{names[0]}_batched_latent"])
    keep = call["keep"]
    return {**outputs, "keep_masks": np.ones((4, blocks, rows), np.float32) if keep is None else keep}


TRAJECTORIES = ("euler", "gradient_estimation", "euler_ancestral", "euler_cfg_pp", "res2s")

KINDS: dict[str, Callable[[Case], Outputs]] = {
    **{f"diffusion.trajectory.{name}": _trajectory for name in TRAJECTORIES},
    "diffusion.guidance.denoiser": _guided_denoiser,
}
