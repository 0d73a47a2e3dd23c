"""What the model says of clusters: links and steps, measured here or assumed, and efficiency up to 1,024 workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from parts.scaling_model import Algorithm, Exchange, Fit, Link, Workload, bandwidth_for, efficiency, link_of
from sparton.distributed.direct import DIRECT_SUM_BYTES

WORKERS = tuple(2**power for power in range(11))
ALGORITHMS: tuple[Algorithm, ...] = ("ring", "tree")
GATHER: Algorithm = "gather"

ETHERNET = Link(latency_s=25e-6, bytes_per_second=0.9 * 25e9 / 8)
"""25 Gbit/s with TCP, of whose rate nine tenths are left; the overhead is that which is measured here."""

SLOW_HALF_CYCLE_S = 10e-3
"""What a sum by Horovod waits on average where most sums go without it, and its loop looks every 20 ms."""

HALF_CYCLE_S = 0.5e-3
"""What Horovod's loop, which looks for work every millisecond, makes a collective wait on average."""

INFINIBAND = Link(latency_s=5e-6, bytes_per_second=100e9 / 8, overhead_s=HALF_CYCLE_S)
"""100 Gbit/s between hosts, which every ring over several hosts passes."""

NVLINK = Link(latency_s=5e-6, bytes_per_second=100e9, overhead_s=HALF_CYCLE_S)
"""What NCCL reaches among V100 that NVLink connects, about."""

GPU_STEP_S = 10e-3
"""A step of UCluster at batch 256 on a GPU like V100: assumed."""

RESNET_BYTES = 2 * 25.6e6
"""Gradients of ResNet-50 in float16."""

RESNET_STEP_S = 256 / 1300
"""A step of ResNet-50 at batch 256 (assumed) and 1,300 images a second, what one V100 does in mixed precision."""

PUBLISHED_WORKERS, PUBLISHED_EFFICIENCY = 24, 0.975
"""Lu, Lu and Liang 2020, on 24 V100."""

Answer = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A cluster and what it trains; ``measured`` says which numbers were not assumed.

    With ``direct``, small sums go over that link instead, see :class:`parts.scaling_model.Exchange`.
    """

    key: str
    name: str
    link: Link
    workload: Workload
    measured: str
    direct: Link | None = None

    def predictions(self) -> Answer:
        """Return efficiencies by algorithm, in the order of :data:`WORKERS`, and at the published number of GPUs."""
        return {
            "name": self.name,
            "measured": self.measured,
            "link": asdict(self.link),
            "direct": self.direct and asdict(self.direct),
            "workload": asdict(self.workload),
            "efficiency": {
                algorithm: [efficiency(self.workload, workers, self._exchange(algorithm)) for workers in WORKERS]
                for algorithm in ALGORITHMS
            },
            "at_published": {
                algorithm: efficiency(self.workload, PUBLISHED_WORKERS, self._exchange(algorithm))
                for algorithm in ALGORITHMS
            },
        }

    def _exchange(self, algorithm: Algorithm) -> Exchange:
        if self.direct is None:
            return Exchange(self.link, algorithm)
        slow = replace(self.link, overhead_s=self.link.overhead_s + SLOW_HALF_CYCLE_S)
        return Exchange(self.direct, "gather", DIRECT_SUM_BYTES, Exchange(slow, algorithm))


def scenarios(measured: Answer, calibration: Answer) -> list[Scenario]:
    """Return the clusters of the study.

    Parameters
    ----------
    measured
        What :func:`parts.scaling_measure.summary` returned.
    calibration
        What :func:`parts.scaling_measure.calibrate` returned.
    """
    here, direct = (
        link_of(Fit(**calibration[name]["fit"]), calibration["hop_s"], algorithm)
        for name, algorithm in (("Horovod float32", ALGORITHMS[0]), ("direct float32", GATHER))
    )
    collectives = tuple(measured["exchange"]["float32"]["collectives"])
    halved = tuple(measured["exchange"]["float16"]["collectives"])
    host = Workload(measured["alone_s"], collectives, spread_s=measured["spread_s"])
    gpu = Workload(GPU_STEP_S, halved)
    resnet = Workload(RESNET_STEP_S, (RESNET_BYTES,))
    return [
        Scenario(
            "loopback",
            "UCluster on cores like these, direct sums over loopback",
            here,
            replace(host, shared_s=measured["shared_s"]),
            "all",
            direct,
        ),
        Scenario(
            "horovod",
            "UCluster on cores like these, Horovod over loopback",
            here,
            replace(host, shared_s=measured["shared_s"]),
            "all",
        ),
        Scenario(
            "ethernet",
            "UCluster on cores like these, direct sums over 25 Gbit/s Ethernet",
            replace(ETHERNET, overhead_s=here.overhead_s),
            host,
            "step, spread, collectives, overhead",
            replace(ETHERNET, overhead_s=direct.overhead_s),
        ),
        Scenario("nvlink", "UCluster on GPUs, NCCL over NVLink", NVLINK, gpu, "collectives"),
        Scenario("infiniband", "UCluster on GPUs, NCCL over 100 Gbit/s", INFINIBAND, gpu, "collectives"),
        Scenario("resnet_nvlink", "ResNet-50 on V100, NCCL over NVLink", NVLINK, resnet, "none"),
        Scenario("resnet_infiniband", "ResNet-50 on V100, NCCL over 100 Gbit/s", INFINIBAND, resnet, "none"),
    ]


def predict(measured: Answer, calibration: Answer) -> Answer:
    """Return the predictions of all scenarios, and what the published point asks of a link."""
    needed = bandwidth_for(PUBLISHED_EFFICIENCY, RESNET_STEP_S, RESNET_BYTES, PUBLISHED_WORKERS)
    return {
        "workers": list(WORKERS),
        "scenarios": {each.key: each.predictions() for each in scenarios(measured, calibration)},
        "published": {
            "workers": PUBLISHED_WORKERS,
            "efficiency": PUBLISHED_EFFICIENCY,
            "bytes_per_second_needed": needed,
        },
    }
