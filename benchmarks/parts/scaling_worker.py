"""A worker of the scaling study: pinned to one core, it does what each line of standard input says, and answers.

What it is asked for are calls of :class:`parts.scaling_steps.Steps`, as JSON.
"""

from __future__ import annotations

import json
import os
import sys

from sparton.distributed import devices
from sparton.distributed.child import die_with_parent


def main() -> None:
    """Pin this process before TensorFlow starts its threads, then answer until standard input ends."""
    core, folder, batch_size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    # One that is stopped while others are measured would outlive a parent that is killed.
    die_with_parent()
    os.sched_setaffinity(0, {core})
    devices.limit_worker_threads(1)
    from parts.scaling_steps import Steps

    steps = Steps(folder, batch_size)
    # Libraries may write to standard output; answers go where it led to.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        call = json.loads(line)
        answers.write(json.dumps(getattr(steps, call.pop("call"))(**call)) + "\n")


if __name__ == "__main__":
    main()
