"""spark-submit entry point of ``sparton stream-cluster``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["stream-cluster", *sys.argv[1:]]))
