"""Makes `tiny` (the smallest release, shared by the tests of training) importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
