"""``python -m hybridpt``."""

import sys

from hybridpt.start import hybridpt

sys.exit(hybridpt())
