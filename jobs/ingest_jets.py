"""spark-submit entry point of ``sparton ingest``; see ``--help``."""

from __future__ import annotations

import sys

from sparton.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
