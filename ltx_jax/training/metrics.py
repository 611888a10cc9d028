"""Where the numbers of a run go: a line of JSON per step, TensorBoard event files, and the terminal."""

import json
import math
import os
import sys
import time
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

Values = dict[str, float]


class MetricsLog:
    """`metrics.jsonl` and event files of one stage. Opened at step `start`, lines of later steps are dropped.

    So the file of a run that was killed and resumed is the file of a run that was never killed.
    """

    def __init__(self, folder: str | os.PathLike[str], start: int = 0):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        _keep_until(self.path, start)
        self._file = self.path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "events"), purge_step=start + 1 if start else None)

    def write(self, step: int, values: Values) -> None:
        """Add the values of one step (completed updates); NaN means that there is nothing to report."""
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"train/{name}", value, step)

    def flush(self) -> None:
        """Make everything written so far visible to readers."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        self._file.close()
        self._events.close()


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
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


class Progress:
    """A bar with ETA, loss, steps/s and samples/s on a terminal; elsewhere a plain line every `log_every` steps."""

    def __init__(self, name: str, start: int, total: int, samples_per_step: int, log_every: int):
        self.name, self.total, self.samples, self.log_every = name, total, samples_per_step, log_every
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, desc=name, unit="step", disable=not self._terminal)
        self._since, self._step = time.monotonic(), start

    def update(self, step: int) -> None:
        """`step` steps are completed."""
        self._bar.update(step - self._bar.n if self._terminal else 0)

    def report(self, step: int, values: Values) -> None:
        """Show the values of `step`, with the rate since the last report."""
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._since, 1e-9)
        self._since, self._step = now, step
        loss, samples = values["loss"], rate * self.samples
        if self._terminal:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {samples:.1f} samples/s")
            return
        left = (self.total - step) / max(rate, 1e-9)
        print(
            f"{self.name} {step}/{self.total}  loss {loss:.4f}  {rate:.2f} steps/s  {samples:.1f} samples/s  "
            f"{duration(left)} left",
            file=sys.stderr,
            flush=True,
        )

    def say(self, text: str) -> None:
        """A line of text beside the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
