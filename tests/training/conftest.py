"""What tests of training share: `tiny` (the smallest release) is importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
