"""The one loop of all stages: batches through the compiled step, metrics, checkpoints, resume.

Run again, a stage goes on from its newest checkpoint, bit for bit as if it had never stopped: the checkpoint holds
state, data position and configuration of one step together, and every random draw follows from seed and step.
"""

import contextlib
import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from ltx_jax.checkpoints.orbax import Checkpoints
from ltx_jax.errors import UserError
from ltx_jax.parallel.program import Program, place
from ltx_jax.training.config import StageConfig
from ltx_jax.training.metrics import MetricsLog, Progress
from ltx_jax.training.record import check_config
from ltx_jax.training.state import TrainState


class Batches(Protocol):
    """An endless iterator of host batches whose position can be stored; the position is JSON-able."""

    def __next__(self) -> dict[str, np.ndarray]: ...
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

    def __init__(self, stage: Stage, say: Callable[[str], None]):
        self._stage, self._say = stage, say
        self._compiled: dict[str, Any] = {}

    def __call__(self, state: TrainState, host: Mapping[str, Any]) -> tuple[TrainState, Any]:
        """The next state and the metrics, on the devices; `state` is donated. Raises UserError for what is missing."""
        name = host.get("bucket", "") if self._stage.buckets else ""
        program, frozen = self._stage.buckets.get(name, (self._stage.program, self._stage.frozen))
        if name not in self._compiled:
            self._say(f"{self._stage.name}: compiling the step" + (f" of {name}" if name else ""))
            self._compiled[name] = program.compile()
        wanted = program.abstract_args[2]
        missing = [key for key in wanted if key not in host]
        if missing:
            raise UserError(f"The training mode needs '{missing[0]}' with every clip, and the data do not have it.")
        return self._compiled[name](state, frozen, place({key: host[key] for key in wanted}, wanted))


def run_stage(stage: Stage, folder: Path) -> TrainState:
    """Train `stage` to its last step, or go on where an earlier run stopped; returns the final state.

    Raises UserError for a checkpoint of another configuration and for a loss that is not finite. On SIGTERM a
    checkpoint is written and SystemExit raised.
    """
    config = stage.config
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(folder / "checkpoints", config.keep)
        stack.callback(checkpoints.close)
        batches = stage.batches()
        stack.callback(batches.close)
        state, start = _restore(stage, checkpoints, batches)
        if start >= config.steps:
            return state
        log = MetricsLog(folder, start)
        stack.callback(log.close)
        progress = Progress(stage.name, start, config.steps, config.batch_size, config.log_every)
        stack.callback(progress.close)
        terminated = stack.enter_context(_sigterm())
        run = _Run(stage, folder, checkpoints, log, progress, batches)
        return run.steps(state, start, terminated)


@dataclasses.dataclass
class _Run:
    """A running stage. pending: metrics of the steps that were not read yet."""

    stage: Stage
    folder: Path
    checkpoints: Checkpoints
    log: MetricsLog
    progress: Progress
    batches: Batches
    pending: list[tuple[int, Any]] = dataclasses.field(default_factory=list)

    def steps(self, state: TrainState, start: int, terminated: Callable[[], bool]) -> TrainState:
        """Run from `start` completed steps to the end."""
        config, run = self.stage.config, CompiledSteps(self.stage, self.progress.say)
        for step in range(start + 1, config.steps + 1):
            state, metrics = run(state, next(self.batches))
            self._advance(step, metrics)
            last, stopped = step == config.steps, terminated()
            save = last or stopped or _due(step, config.checkpoint_every)
            sample = self.stage.preview is not None and (last or _due(step, config.sample_every))
            if save or sample or _due(step, config.log_every):
                self._read()
            if save:
                self.checkpoints.save(step, state, self.batches.get_state(), self.stage.identity)
            if stopped and not last:
                self.progress.say(f"stopped at step {step}; run the same command again to go on")
                raise SystemExit(0)
            if sample and self.stage.preview is not None:
                self.stage.preview(state, step, self.folder / "samples")
        return state

    def _advance(self, step: int, metrics: Any) -> None:
        """Note the metrics of `step`, and wait for the step before: one step runs while the next batch is made."""
        if self.pending:
            jax.block_until_ready(self.pending[-1][1])
            self.progress.update(step - 1)
        self.pending.append((step, metrics))

    def _read(self) -> None:
        """Bring the pending metrics to the host, write them, and stop at a number that is not finite."""
        step, values = 0, {}
        for step, metrics in self.pending:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            for name in ("loss", "grad_norm"):
                if not math.isfinite(values[name]):
                    self.log.flush()
                    raise UserError(
                        f"The {name} of {self.stage.name} became {values[name]} at step {step}; lower "
                        f"training.{self.stage.name}.optimizer.learning_rate (checkpoints before it are kept)."
                    )
            self.log.write(step, values)
        self.progress.update(step)
        self.progress.report(step, values)
        self.pending.clear()
        self.log.flush()


def _restore(stage: Stage, checkpoints: Checkpoints, batches: Batches) -> tuple[TrainState, int]:
    latest = checkpoints.latest()
    if latest is None:
        return stage.initialize(), 0
    check_config(stage.identity, checkpoints.config(latest), str(checkpoints.folder))
    state, position = checkpoints.restore(latest, stage.program.abstract_args[0])
    batches.set_state(position)
    print(f"{stage.name}: going on from step {latest} in {checkpoints.folder}", file=sys.stderr)
    return state, latest


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM only sets what the yielded function returns. Off the main thread nothing is installed."""
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
