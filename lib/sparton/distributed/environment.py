"""The environment variables that workers start with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparton.distributed.launch import LaunchSettings
    from sparton.distributed.places import Place


def of_worker(settings: LaunchSettings) -> dict[str, str]:
    """Return the variables that a launcher adds to those of a worker's process."""
    return {
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(settings.stall_check_s),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(settings.stall_shutdown_s),
        # Gloo's own limit of 30 s is too short when one host imports TensorFlow much more slowly than another.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(settings.start_timeout_s),
        **settings.environment,
    }


def of_horovod(place: Place, interface: str, address: str, port: int) -> dict[str, str]:
    """Return the variables by which Horovod finds a process's world over Gloo.

    Parameters
    ----------
    place
        The process's.
    interface
        The network interface that it exchanges data on.
    address, port
        Where the rendezvous is.
    """
    return place.environment() | {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }
