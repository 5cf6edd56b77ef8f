"""The toy subject and its examples are shared with the tests of methods."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
