"""The end-to-end cluster's package lies at the root of the tree, which is no folder that tests import from."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
