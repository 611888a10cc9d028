"""Makes `exact` (attention in float64) and `aot` (slices without hardware) importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
