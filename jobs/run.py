"""spark-submit entry point of ``sparton run``, the whole pipeline; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
