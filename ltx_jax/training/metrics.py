"""Where the numbers of a run go: a line of JSON per step, TensorBoard event files, and the terminal."""

import json
import math
import os
import sys
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from ltx_jax.files import write_text

Values = dict[str, float]


class MetricsLog:
    """`metrics.jsonl`, `speed.jsonl` and event files of one stage. Opened at step `start`, metrics of later steps are
    dropped, so that the file of a run that was killed and resumed is the file of a run that was never killed.
    """

    def __init__(self, folder: str | os.PathLike[str], start: int = 0):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        _keep_until(self.path, start)
        self._file = self.path.open("a", encoding="utf-8")
        self._speed = (folder / "speed.jsonl").open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "events"), purge_step=start + 1 if start else None)

    def write(self, step: int, values: Values) -> None:
        """Add the values of one step; what is not finite has nothing to report, or was refused and said so."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"train/{name}", value, step)

    def write_speed(self, step: int, values: Values) -> None:
        """Add figures of time (training/speed.py). They differ between runs, so they have a file of their own."""
        self._speed.write(json.dumps({"step": step, **{k: round(v, 4) for k, v in values.items()}}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"speed/{name}", value, step)

    def flush(self) -> None:
        """Make everything written so far visible to readers."""
        for target in (self._file, self._speed, self._events):
            target.flush()

    def close(self) -> None:
        for target in (self._file, self._speed, self._events):
            target.close()


class NoLog:
    """In place of MetricsLog in the processes that write none."""

    def write(self, step: int, values: Values) -> None: ...
    def write_speed(self, step: int, values: Values) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def read_metrics(path: str | os.PathLike[str]) -> list[Values]:
    """All lines of a `metrics.jsonl`; a last line that was cut off by a kill is left out."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


class Progress:
    """A bar with ETA, loss, steps/s and samples/s on a terminal; elsewhere a plain line per report; or nothing."""

    def __init__(self, name: str, start: int, total: int, samples_per_step: int, quiet: bool = False):
        self.name, self.total, self.samples, self._quiet = name, total, samples_per_step, quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(total=total, initial=start, desc=name, unit="step", disable=not self._terminal)

    def update(self, step: int) -> None:
        """`step` steps are completed."""
        self._bar.update(step - self._bar.n if self._terminal else 0)

    def report(self, step: int, values: Values, speed: Values) -> None:
        """Show the values of `step`, and the figures of training/speed.py."""
        if self._quiet:
            return
        rate, loss = 1 / speed["step_s"], values["loss"]
        samples = rate * self.samples
        if self._terminal:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {samples:.1f} samples/s")
            return
        left = (self.total - step) / max(rate, 1e-9)
        print(
            f"{self.name} {step}/{self.total}  loss {loss:.4f}  {rate:.2f} steps/s  {samples:.1f} samples/s  "
            f"{_share(speed, 'mfu')}goodput {speed['goodput']:.0%}  {duration(left)} left",
            file=sys.stderr,
            flush=True,
        )

    def say(self, text: str) -> None:
        """A line of text beside the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def _share(speed: Values, name: str) -> str:
    return f"{name} {speed[name]:.1%}  " if name in speed else ""


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
