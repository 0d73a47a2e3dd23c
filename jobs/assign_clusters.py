"""spark-submit entry point of ``sparton assign``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["assign", *sys.argv[1:]]))
