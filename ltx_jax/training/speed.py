"""How well a run uses its devices: seconds per step, model FLOP utilisation, and goodput."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

Values = dict[str, float]


class Speed:
    """Wall time of one start of a run, by what it went to.

    step_s: seconds per step since the last report, without what `losing` saw. mfu: model FLOPs of a step over what the
    devices could do in that time. goodput: share of all time since the start that went to steps that were kept;
    restoring, compiling, saving, previews and refused steps are the rest, listed as lost_NAME_s.
    """

    def __init__(self, flops: float = 0.0, peak: float = 0.0, now: Callable[[], float] = time.monotonic):
        """flops: of a step, over all devices. peak: FLOP/s of all devices together; 0 where either is unknown."""
        self._now, self._flops, self._peak = now, flops, peak
        self._begin = self._since = now()
        self._step, self._lost, self._lost_before = 0, defaultdict(float), 0.0
        self._refused_s = 0.0

    def begin(self, step: int) -> None:
        """Training begins, or goes on, after `step` steps."""
        self._step = step

    @contextlib.contextmanager
    def losing(self, name: str) -> Iterator[None]:
        """What happens within is no training."""
        before = self._now()
        try:
            yield
        finally:
            self._lost[name] += self._now() - before

    def report(self, step: int, refused: int = 0) -> Values:
        """The figures at `step`; `refused` of the steps since the last report were refused."""
        now, lost = self._now(), sum(self._lost.values())
        steps = max(1, step - self._step)
        step_s = max(now - self._since - (lost - self._lost_before), 1e-9) / steps
        self._refused_s += refused * step_s
        self._since, self._step, self._lost_before = now, step, lost
        total = max(now - self._begin, 1e-9)
        values = {"step_s": step_s, "goodput": (total - lost - self._refused_s) / total}
        if self._flops and self._peak:
            values["mfu"] = self._flops / (step_s * self._peak)
        return values | {f"lost_{name}_s": seconds for name, seconds in self._lost.items()}
