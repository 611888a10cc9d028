"""One clip as training reads it, whatever it is made from.

An item is a dict: video uint8 (F, h, w, 3), audio float32 (2, L), has_audio bool, caption str.
"""

from typing import Any, Protocol

import numpy as np

Item = dict[str, Any]


class Source(Protocol):
    """Items by number. `draw` selects what is random about an item (which window of a long video); equal numbers and
    draws give equal items. fingerprint: changes when the data do.
    """

    fingerprint: str

    def __len__(self) -> int: ...

    def item(self, number: int, draw: int) -> Item: ...


def collate(items: list[Item]) -> dict[str, Any]:
    """A batch of items: stacked arrays, captions as a list."""
    batch = {name: np.stack([item[name] for item in items]) for name in ("video", "audio")}
    batch["has_audio"] = np.array([item["has_audio"] for item in items], bool)
    return batch | {"caption": [item["caption"] for item in items]}
