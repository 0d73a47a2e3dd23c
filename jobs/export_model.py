"""spark-submit entry point of ``sparton export``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
