"""Sound of the toy world: a short decaying tone per bounce over a very soft hum of the background."""

from collections.abc import Sequence

import numpy as np

from ltx_jax.data.raw.toy.motion import Bounce
from ltx_jax.data.raw.toy.vocabulary import BACKGROUNDS, OVERTONES, PITCHES

HUM = 0.004
ATTACK, DECAY = 0.001, 0.12  # seconds
SOFTEST, LOUDER = 0.12, 0.25  # loudness of a slow bounce, and how much a speed of 1 adds


def sound(
    bounces: Sequence[Bounce], shapes: Sequence[str], colors: Sequence[str], background: str, samples: int, rate: int
) -> np.ndarray:
    """Stereo float32 (2, samples) at `rate` Hz; each tone begins with its bounce and is loudest a millisecond later."""
    time = np.arange(samples) / rate
    hum = HUM * np.sin(2 * np.pi * 100 * (1 + list(BACKGROUNDS).index(background)) * time)
    audio = np.stack([hum, hum])
    for bounce in bounces:
        since = np.maximum(time - bounce.time, 0)
        pitch, (overtone, mix) = PITCHES[shapes[bounce.body]], OVERTONES[colors[bounce.body]]
        phase = 2 * np.pi * pitch * time
        wave = np.sin(phase) + mix * np.sin(overtone * phase)
        envelope = np.minimum(since / ATTACK, 1) * np.exp(-since / DECAY)
        loud = SOFTEST + LOUDER * min(bounce.speed, 1.0)
        pan = np.clip(bounce.x, 0, 1) * np.pi / 2
        audio += loud * envelope * wave * np.array([np.cos(pan), np.sin(pan)])[:, None]
    return np.clip(audio, -1, 1).astype(np.float32)
