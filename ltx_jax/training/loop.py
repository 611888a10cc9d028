"""The one loop of all stages: batches through the compiled step, metrics, checkpoints, resume.

Run again, a stage goes on from its newest checkpoint, bit for bit as if it had never stopped: the checkpoint holds
state, data position and configuration of one step together, and every random draw follows from seed and step.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from ltx_jax.checkpoints.orbax import Checkpoints
from ltx_jax.errors import UserError
from ltx_jax.parallel.chips import peak_flops
from ltx_jax.parallel.multihost import is_first, say, termination, to_host
from ltx_jax.parallel.program import Program, place
from ltx_jax.training.config import StageConfig
from ltx_jax.training.metrics import MetricsLog, NoLog, Progress
from ltx_jax.training.record import check_config
from ltx_jax.training.speed import Speed
from ltx_jax.training.state import TrainState


class Batches(Protocol):
    """An endless iterator of host batches whose position can be stored; the position is JSON-able."""

    def __next__(self) -> dict[str, np.ndarray]: ...
    def at(self, step: int) -> dict[str, np.ndarray]: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...
    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Stage:
    """Everything that the loop needs of a stage.

    initialize: the state before step 0, on the devices. frozen: second argument of the step, on the devices. identity:
    the configuration, JSON-able, that a checkpoint must agree with. preview: called with (state, step, folder).
    buckets: where batches say a "bucket", the program and frozen argument of each, of one state.
    """

    name: str
    config: StageConfig
    program: Program
    initialize: Callable[[], TrainState]
    frozen: Any
    batches: Callable[[], Batches]
    identity: dict[str, Any]
    preview: Callable[[TrainState, int, Path], None] | None = None
    buckets: Mapping[str, tuple[Program, Any]] = dataclasses.field(default_factory=dict)


class CompiledSteps:
    """The step of the bucket that a batch is of, compiled when its first batch comes."""

    def __init__(self, stage: Stage, say: Callable[[str], None], speed: Speed):
        self._stage, self._say, self._speed = stage, say, speed
        self._compiled: dict[str, Any] = {}

    def __call__(self, state: TrainState, host: Mapping[str, Any]) -> tuple[TrainState, Any]:
        """The next state and the metrics, on the devices; `state` is donated. Raises UserError for what is missing."""
        name = host.get("bucket", "") if self._stage.buckets else ""
        program, frozen = self._stage.buckets.get(name, (self._stage.program, self._stage.frozen))
        if name not in self._compiled:
            self._say(f"{self._stage.name}: compiling the step" + (f" of {name}" if name else ""))
            with self._speed.losing("compile"):
                self._compiled[name] = program.compile()
        wanted = program.arguments["batch"]
        missing = [key for key in wanted if key not in host]
        if missing:
            raise UserError(f"The training mode needs '{missing[0]}' with every clip, and the data do not have it.")
        return self._compiled[name](state, frozen, place({key: host[key] for key in wanted}, wanted))


def run_stage(stage: Stage, folder: Path) -> TrainState:
    """Train `stage` to its last step, or go on where an earlier run stopped; returns the final state.

    Raises UserError for a checkpoint of another configuration, and when too many steps in a row were refused. On
    SIGTERM a checkpoint is written and SystemExit(0) raised; the same call goes on from there.
    """
    config = stage.config
    with contextlib.ExitStack() as stack:
        speed = _speed(stage.program)
        checkpoints = Checkpoints(folder / "checkpoints", config.keep)
        stack.callback(checkpoints.close)
        batches = stage.batches()
        stack.callback(batches.close)
        with speed.losing("restore"):
            state, start = _restore(stage, checkpoints, batches)
        if start >= config.steps:
            return state
        speed.begin(start)
        log = MetricsLog(folder, start) if is_first() else NoLog()
        stack.callback(log.close)
        progress = Progress(stage.name, start, config.steps, config.batch_size, quiet=not is_first())
        stack.callback(progress.close)
        terminated = stack.enter_context(termination())
        run = _Run(stage, folder, checkpoints, log, progress, batches, speed)
        return run.steps(state, start, terminated)


@dataclasses.dataclass
class _Run:
    """A running stage. pending: metrics of the steps that were not read yet. refused: steps refused in a row."""

    stage: Stage
    folder: Path
    checkpoints: Checkpoints
    log: MetricsLog | NoLog
    progress: Progress
    batches: Batches
    speed: Speed
    pending: list[tuple[int, Any]] = dataclasses.field(default_factory=list)
    refused: int = 0

    def steps(self, state: TrainState, start: int, terminated: Callable[[int], bool]) -> TrainState:
        """Run from `start` completed steps to the end."""
        config, run = self.stage.config, CompiledSteps(self.stage, self.progress.say, self.speed)
        for step in range(start + 1, config.steps + 1):
            state, metrics = run(state, next(self.batches))
            self._advance(step, metrics)
            last, stopped = step == config.steps, terminated(step)
            save = last or stopped or _due(step, config.checkpoint_every)
            sample = self.stage.preview is not None and _shown(step, config)
            if save or sample or _due(step, config.log_every):
                self._read()
            if save:
                with self.speed.losing("checkpoint"):
                    self.checkpoints.save(step, state, self.batches.get_state(), self.stage.identity)
            if stopped and not last:
                self.progress.say(f"stopped at step {step}; run the same command again to go on")
                raise SystemExit(0)
            if sample:
                with self.speed.losing("preview"):
                    self._preview(state, step)
        return state

    def _preview(self, state: TrainState, step: int) -> None:
        """Show the model so far; of several processes the first one does, with a copy of the weights."""
        assert self.stage.preview is not None
        if jax.process_count() > 1:
            state = TrainState(state.step, to_host(state.weights), None)
        if is_first():
            self.stage.preview(state, step, self.folder / "samples")

    def _advance(self, step: int, metrics: Any) -> None:
        """Note the metrics of `step`, and wait for the step before: one step runs while the next batch is made."""
        if self.pending:
            jax.block_until_ready(self.pending[-1][1])
            self.progress.update(step - 1)
        self.pending.append((step, metrics))

    def _read(self) -> None:
        """Bring the pending metrics to the host, write them, and stop where too many steps were refused."""
        step, values, refused = 0, {}, 0
        for step, metrics in self.pending:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            refused += self._check(step, values)
            self.log.write(step, values)
        speed = self.speed.report(step, refused)
        self.log.write_speed(step, speed)
        self.progress.update(step)
        self.progress.report(step, values, speed)
        self.pending.clear()
        self.log.flush()

    def _check(self, step: int, values: dict[str, float]) -> bool:
        """Whether the step was refused. Raises UserError at a number that is not finite, or one refusal too many."""
        name, limit = self.stage.name, self.stage.config.guard.max_skipped
        refused = values.get("skipped", 0.0) > 0
        self.refused = self.refused + 1 if refused else 0
        if refused and self.refused <= limit:
            text = f"loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g}"
            self.progress.say(f"{name}: step {step} refused ({text}), the state stays as it was")
            return True
        wrong = [k for k in ("loss", "grad_norm") if not math.isfinite(values[k])]
        if not refused and not wrong:
            return False
        self.log.flush()
        if refused:
            raise UserError(
                f"{self.refused} steps of {name} in a row were refused, up to step {step}, for a loss or gradient that "
                f"is not finite or too large; lower training.{name}.optimizer.learning_rate or look at the data "
                "(checkpoints are kept)."
            )
        raise UserError(
            f"The {wrong[0]} of {name} became {values[wrong[0]]} at step {step}; lower "
            f"training.{name}.optimizer.learning_rate (checkpoints before it are kept)."
        )


def _restore(stage: Stage, checkpoints: Checkpoints, batches: Batches) -> tuple[TrainState, int]:
    latest = checkpoints.latest()
    if latest is None:
        return stage.initialize(), 0
    check_config(stage.identity, checkpoints.config(latest), str(checkpoints.folder))
    state, position = checkpoints.restore(latest, stage.program.arguments["state"])
    batches.set_state(position)
    say(f"{stage.name}: going on from step {latest} in {checkpoints.folder}")
    return state, latest


def _speed(program: Program) -> Speed:
    peak = peak_flops(program.mesh)
    return Speed(program.model_flops() if peak and program.model_flops else 0.0, peak)


def _shown(step: int, config: StageConfig) -> bool:
    """Whether samples are made after `step`: as often as asked for, and at the end; never where never is asked for."""
    return config.sample_every > 0 and (step == config.steps or _due(step, config.sample_every))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
