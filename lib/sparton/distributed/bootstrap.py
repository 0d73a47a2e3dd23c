"""The first function that a worker process runs, before it can import anything of this project.

It is pickled by value (see :mod:`sparton.distributed.horovod_spark`), because a process that Horovod starts on an
executor does not see the files that were given to Spark with ``--py-files``.
"""

from __future__ import annotations

from typing import Any


def start(paths: list[str], payload: bytes) -> Any:
    """Make the project importable and hand over to :func:`sparton.distributed.supervisor.run_under_horovod`.

    Parameters
    ----------
    paths
        Folders and zip files to import from; relative ones lie in the executor's working folder.
    payload
        The pickled order.
    """
    import os
    import sys

    sys.path[:0] = [path for path in map(os.path.abspath, paths) if path not in sys.path and os.path.exists(path)]
    import cloudpickle  # type: ignore[import-untyped]

    from sparton.distributed import supervisor

    return supervisor.run_under_horovod(cloudpickle.loads(payload))
