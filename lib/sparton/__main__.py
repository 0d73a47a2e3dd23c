"""``python -m sparton``, the same as the command ``sparton``."""

from __future__ import annotations

import sys

from sparton.cli import main

sys.exit(main())
