"""spark-submit entry point of ``sparton cluster``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["cluster", *sys.argv[1:]]))
