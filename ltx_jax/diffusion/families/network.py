"""The families as one transformer is trained and sampled with them: a declaration each, a row of PROCESSES.

Levels of equal SNR hold the same posterior (families.md 0), so streams stay on the straight path
x = (1 - sigma) x0 + sigma e whatever the family. A family says which levels training draws, how x is scaled for the
network and what the network answers; it is always told sigma, which is 0 for tokens that are held. Guidance,
conditioning, schedules and steppers therefore know no family, and any sampler serves any network. Latents are
normalised: their standard deviation is 1. Letters: B batch, T tokens, C channels.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.diffusion.families import ddim, ddpm, edm, process, sde
from ltx_jax.diffusion.families.flow import flow_level
from ltx_jax.diffusion.objectives import x0_from_velocity
from ltx_jax.errors import require
from ltx_jax.streams import Stream

Array = jax.Array
LEAST = 1e-6  # stands for the level 0 where it would divide


class Levels(Protocol):
    """Noise levels of a family, on the straight path."""

    def draw(self, normal: Array, uniform: Array) -> Array:
        """Those of training, (B,), from draws of N(0, 1) and U[0, 1)."""
        ...

    def grid(self, steps: int) -> np.ndarray:
        """Those that its own sampler visits, (steps + 1,) float64, the last one 0. Raises UserError: too many steps."""
        ...


@dataclasses.dataclass(frozen=True)
class Chain:
    """A DDPM of 1000 steps, sampled at trailing indices. zero_snr: stretched to end in pure noise."""

    schedule: str
    zero_snr: bool = False

    @property
    def table(self) -> np.ndarray:
        """The levels of all indices."""
        chain = ddpm.schedule(self.schedule)
        chain = ddpm.zero_terminal_snr(chain) if self.zero_snr else chain
        return flow_level(np.sqrt(chain.signal), np.sqrt(1 - chain.signal))[0]

    def draw(self, normal: Array, uniform: Array) -> Array:
        """Those of uniform indices."""
        table = self.table
        return ddpm.lookup(table, jnp.floor(uniform * len(table)).astype(jnp.int32))

    def grid(self, steps: int) -> np.ndarray:
        """Those of trailing indices."""
        table = self.table
        return np.append(table[ddim.timesteps("trailing", len(table), steps)], 0.0)


@dataclasses.dataclass(frozen=True)
class Continuous:
    """A stochastic differential equation, at uniform times."""

    equation: sde.SDE

    def draw(self, normal: Array, uniform: Array) -> Array:
        """Those of uniform times from the least one to 1."""
        least = self.equation.least_time
        return flow_level(*self.equation.kernel(least + (1 - least) * uniform))[0]

    def grid(self, steps: int) -> np.ndarray:
        """Those of equal times from 1 to the least one."""
        times = np.linspace(1.0, self.equation.least_time, steps)
        return np.append(flow_level(*self.equation.kernel(times))[0], 0.0)


@dataclasses.dataclass(frozen=True)
class LogNormal:
    """The levels of EDM, which are those for data of standard deviation 0.5, in proportion to it."""

    data_std: float = 0.5

    def draw(self, normal: Array, uniform: Array) -> Array:
        """Log-normal ones."""
        return flow_level(1.0, edm.training_sigma(normal) / self.data_std)[0]

    def grid(self, steps: int) -> np.ndarray:
        """Equally far in their 7th root."""
        return flow_level(1.0, edm.sigmas(steps) / self.data_std)[0]


def _straight(sigma: Array) -> tuple[Array, Array]:
    return 1 - sigma, sigma


def _preserving(sigma: Array) -> tuple[Array, Array]:
    norm = ((1 - sigma) ** 2 + sigma**2) ** 0.5
    return (1 - sigma) / norm, sigma / norm


def _sub_preserving(sigma: Array) -> tuple[Array, Array]:
    """Where s = 1 - a^2."""
    norm = sigma + (sigma**2 + 4 * (1 - sigma) ** 2) ** 0.5
    return 2 * (1 - sigma) / norm, 2 * sigma / norm


# (a, s) of the path on which a network reads x at the straight path's level; a variance that explodes is scaled down to
# one that is preserved before a network sees it.
Path = Literal["straight", "preserving", "sub_preserving"]
PATHS: dict[Path, Callable[[Array], tuple[Array, Array]]] = {
    "straight": _straight,
    "preserving": _preserving,
    "sub_preserving": _sub_preserving,
}


@dataclasses.dataclass(frozen=True)
class Process:
    """A row of PROCESSES. levels: of training and of the family's own sampler, None for those of flow matching.

    most: the highest level that training knows; a network is not asked beyond it. A "score" is answered times s, as
    minus the noise.
    """

    name: str
    prediction: process.Prediction
    path: Path = "preserving"
    levels: Levels | None = None
    most: float = 1.0

    def __post_init__(self):
        process.check_prediction(self.prediction)
        require(
            self.most < 1 or self.prediction not in ("epsilon", "score"),
            f"'{self.name}' ends in pure noise, where {self.prediction} says nothing of the data: predict v, x0 or "
            "velocity.",
        )

    @property
    def plain(self) -> bool:
        """Whether the network reads x as it is and answers the velocity: nothing has to be converted."""
        return self.path == "straight" and self.prediction == "velocity" and self.most == 1

    def entering(self, stream: Stream) -> Stream:
        """The stream as the network reads it: scaled to the family's path, no level above `most`."""
        if self.plain:
            return stream
        a, s = PATHS[self.path](stream.timesteps()[..., None])
        at_most = lambda level: jnp.minimum(level, self.most)
        return stream.replace(
            latent=stream.latent.astype(jnp.float32) * (a + s),
            sigma=at_most(stream.sigma),
            levels=at_most(stream.levels),
        )

    def x0(self, stream: Stream, output: Array) -> Array:
        """The data (B, T, C) float32 that the network's output means for a stream as it was before `entering`."""
        if self.plain:
            return x0_from_velocity(stream.latent, output, stream.timesteps())
        read, output = self.entering(stream), output.astype(jnp.float32)
        a, s = PATHS[self.path](read.timesteps()[..., None])
        kind, output = ("epsilon", -output) if self.prediction == "score" else (self.prediction, output)
        return process.x0_epsilon(kind, read.latent, output, a, s)[0]

    def answer(self, x: Array, velocity: Array, sigma: Array) -> Array:
        """What the network should answer at tokens x (B, T, C) of level sigma (B,), whose velocity is e - x0."""
        if self.prediction == "velocity":
            return velocity
        level = sigma[:, None, None]
        x0, e = x - level * velocity, x + (1 - level) * velocity
        kind = "epsilon" if self.prediction == "score" else self.prediction
        wanted = process.target(kind, x0, e, *PATHS[self.path](level))
        return -wanted if self.prediction == "score" else wanted

    def min_snr_weight(self, sigma: Array) -> Array:
        """The weight (B,) of the loss at levels sigma (B,) by Min-SNR, gamma 5."""
        return process.min_snr_weight(self.prediction, ((1 - sigma) / jnp.maximum(sigma, LEAST)) ** 2)


def _chain(name: str, schedule: str, prediction: process.Prediction = "epsilon", zero_snr: bool = False) -> Process:
    levels = Chain(schedule, zero_snr)
    return Process(name, prediction, levels=levels, most=float(levels.table[-1]))


def _continuous(name: str, equation: sde.SDE, path: Path = "preserving") -> Process:
    levels = Continuous(equation)
    return Process(name, "score", path, levels, float(levels.grid(1)[0]))


PROCESSES: dict[str, Process] = {
    "flow": Process("flow", "velocity", "straight"),
    "ddpm": _chain("ddpm", "linear"),
    "ddpm_scaled": _chain("ddpm_scaled", "scaled_linear"),
    "ddpm_cosine": _chain("ddpm_cosine", "cosine"),
    "ddpm_zero_snr": _chain("ddpm_zero_snr", "scaled_linear", "v", zero_snr=True),
    "vp": _continuous("vp", sde.VP()),
    "subvp": _continuous("subvp", sde.SubVP(), "sub_preserving"),
    "ve": _continuous("ve", sde.VE()),
    "edm": Process("edm", "v", levels=LogNormal(), most=float(LogNormal().grid(1)[0])),  # its raw network says -v
}


def predicting_x0(process: Process, predict: Callable[..., tuple[Array | None, Array | None]]) -> Callable[..., Any]:
    """A network of a process, a function (video, audio, ...) -> outputs, as one that predicts the streams' x0."""

    def predict_x0(video: Stream | None, audio: Stream | None, *rest: Any) -> tuple[Array | None, Array | None]:
        read = [None if s is None else process.entering(s) for s in (video, audio)]
        of = lambda s, output: None if s is None or output is None else process.x0(s, output)
        outputs = predict(*read, *rest)
        return of(video, outputs[0]), of(audio, outputs[1])

    return predict_x0


def find_process(text: str) -> Process:
    """A process by name, or NAME:PREDICTION for another prediction than its own. Raises UserError for unknown ones."""
    name, _, prediction = text.partition(":")
    require(name in PROCESSES, f"There is no process '{name}'; choose one of {', '.join(PROCESSES)}.")
    found = PROCESSES[name]
    return dataclasses.replace(found, prediction=prediction) if prediction else found
