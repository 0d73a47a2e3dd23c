"""spark-submit entry point of ``sparton prepare --kind table``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "--kind", "table", *sys.argv[1:]]))
