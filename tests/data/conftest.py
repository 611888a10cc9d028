"""Makes `tiny` (the smallest release) and `fakes` (an encoder that needs no network) importable."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "training")]
