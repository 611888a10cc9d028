"""Where a video cuts to another scene: a sudden change of content between neighbouring small pictures.

The measure is the mean absolute difference of neighbouring pictures (0..255). A cut stands out of its surroundings,
which fast motion does not: the rule of the published preparation's adaptive detector (spec training.md 7.9).
"""

from collections.abc import Iterable

import numpy as np

SIDE = 32  # pixels of the small pictures' sides
WINDOW = 2  # neighbouring differences on each side that a cut is compared with


def scene_starts(
    pictures: Iterable[tuple[float, np.ndarray]], threshold: float = 12.0, ratio: float = 2.0, shortest: float = 0.5
) -> list[float]:
    """Start time of every scene in (time in seconds, uint8 (h, w, 3)) pairs.

    A frame starts a scene where its difference from the frame before is at least `threshold`, and at least `ratio`
    times the mean of the differences around it. Scenes are at least `shortest` seconds long.
    """
    times, changes = [], []
    before = None
    for time, picture in pictures:
        current = picture.astype(np.int16)
        changes.append(0.0 if before is None else float(np.abs(current - before).mean()))
        times.append(time)
        before = current
    starts = times[:1]
    for i in range(1, len(times)):
        around = changes[max(1, i - WINDOW) : i] + changes[i + 1 : i + 1 + WINDOW]
        calm = changes[i] >= ratio * (sum(around) / len(around)) if around else True
        if changes[i] >= threshold and calm and times[i] - starts[-1] >= shortest:
            starts.append(times[i])
    return starts
