"""The threads and the GPU of a training process."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence

from sparton.errors import TrainingError

THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")

LOCAL_SIZES = ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
"""How Horovod, Open MPI and Intel MPI tell a process how many of its world are on its host."""

GPU_VARIABLE = "SPARTON_GPUS"
"""Addresses of the GPUs that Spark has assigned to the task of a worker, with commas between."""

GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""What a Linux machine has with a driver of GPUs: Nvidia's, that of Windows below it, AMD's."""

logger = logging.getLogger(__name__)


def limit_worker_threads(threads: int | None) -> None:
    """Set TensorFlow's threads before it is imported; more threads than cores slow all workers down.

    Parameters
    ----------
    threads
        Their number; None shares the host's cores among its workers.
    """
    sharers = next((int(os.environ[name]) for name in LOCAL_SIZES if name in os.environ), 1)
    count = threads if threads is not None else max(1, len(os.sched_getaffinity(0)) // sharers)
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)


def limit_own_threads(threads: int) -> None:
    """Set the threads of TensorFlow in this process, which has other work too: its environment stays as it is."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        found = tf.config.threading.get_intra_op_parallelism_threads() or "its default number of"
        logger.warning("TensorFlow runs already, with %s threads: threads_per_worker=%d has no effect", found, threads)


def assigned_gpus() -> list[str]:
    """Return the addresses of the GPUs that Spark has assigned to this worker."""
    return [name for name in os.environ.get(GPU_VARIABLE, "").split(",") if name]


def choose_gpu(local_rank: int, visible: int, assigned: Sequence[str] = ()) -> int | None:
    """Return the index of the GPU that a process uses, out of those that it sees.

    Parameters
    ----------
    local_rank
        Number of the process among those on its host.
    visible
        GPUs that the process sees.
    assigned
        Addresses that Spark has assigned to the process's task. One that lies outside of the visible GPUs counts the
        host's, of which the process sees a part, so it is passed over.

    Returns
    -------
    int or None
        None if there is no GPU. With fewer GPUs than processes, processes share them in turn.
    """
    if visible < 1:
        return None
    usable = [int(address) for address in assigned if address.isdecimal() and int(address) < visible]
    return usable[0] if usable else local_rank % visible


def pin_gpu(local_rank: int, assigned: Sequence[str] = ()) -> None:
    """Hide all GPUs but one from TensorFlow, and let its memory grow, since another process may share it.

    Raises
    ------
    TrainingError
        If TensorFlow has taken the GPUs already.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    index = choose_gpu(local_rank, len(gpus), assigned)
    if index is None:
        if assigned:
            logger.warning("Spark has assigned GPU %s, but %s; the CPU computes", ", ".join(assigned), why_no_gpu())
        return
    try:
        tf.config.set_visible_devices(gpus[index], "GPU")
        tf.config.experimental.set_memory_growth(gpus[index], True)
    except RuntimeError as error:
        raise TrainingError(
            f"TensorFlow has taken the GPUs of this process already ({error}): something computed with it before the "
            "training began; import and use TensorFlow inside the training function only"
        ) from error
    logger.debug("local rank %d uses GPU %d of %d", local_rank, index, len(gpus))


def has_gpu() -> bool:
    """Tell whether TensorFlow computes on a GPU in this process; it is imported only where there may be one.

    The memory of a GPU that is free to be configured is taken as it is needed.
    """
    if not _may_have_gpu():
        return False
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # TensorFlow has begun already, with the settings that it had then
            tf.config.experimental.set_memory_growth(gpu, True)
    return bool(gpus)


def why_no_gpu() -> str:
    """Return why TensorFlow sees no GPU."""
    import tensorflow as tf

    missing = (
        "CUDA's libraries or the driver are missing, or the GPUs are hidden (nvidia-smi, CUDA_VISIBLE_DEVICES)"
        if tf.test.is_built_with_cuda()
        else "it is built without CUDA; install tensorflow[and-cuda]"
    )
    return f"TensorFlow {tf.__version__} sees none here: {missing}"


def task_gpus() -> list[str]:
    """Return the addresses of the GPUs that Spark has assigned to the task that runs here, if one does."""
    from pyspark import TaskContext

    context = TaskContext.get()
    found = context.resources().get("gpu") if context is not None else None
    return list(found.addresses) if found is not None else []


def _may_have_gpu() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return any(os.path.exists(path) for path in GPU_FILES)


def own_gpus(hosts: Sequence[str], assigned: Sequence[Sequence[str]], task: int) -> Sequence[str]:
    """Return the GPUs that a task has for itself; none where another task of its host was assigned one of them too.

    Executors that find the GPUs of their host by themselves, as in ``local-cluster`` or where several standalone
    workers share a machine, may all be given the first one. The local rank decides then.

    Parameters
    ----------
    hosts
        Host of each task.
    assigned
        Addresses that Spark has assigned to each task.
    task
        The task in question.
    """
    others = {
        address
        for other, addresses in enumerate(assigned)
        if other != task and hosts[other] == hosts[task]
        for address in addresses
    }
    return [] if others & set(assigned[task]) else assigned[task]
