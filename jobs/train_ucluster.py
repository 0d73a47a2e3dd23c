"""spark-submit entry point of ``sparton train``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
