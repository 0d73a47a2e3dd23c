"""spark-submit entry point of ``sparton import-checkpoint``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["import-checkpoint", *sys.argv[1:]]))
