from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sparton.distributed.places import assign


def test_ranks_of_a_host_follow_each_other() -> None:
    found = assign(["a", "b", "a", "c", "b", "a"])
    assert [place.rank for place in found] == [0, 3, 1, 5, 4, 2]
    assert [place.local_rank for place in found] == [0, 0, 1, 0, 1, 2]
    assert [place.local_size for place in found] == [3, 2, 3, 1, 2, 3]
    assert [(place.cross_rank, place.cross_size) for place in found] == [(0, 3), (1, 3), (0, 2), (2, 3), (1, 2), (0, 1)]


def test_horovod_reads_the_place() -> None:
    assert assign(["a", "b", "a"])[2].environment() == {
        "HOROVOD_HOSTNAME": "a",
        "HOROVOD_RANK": "1",
        "HOROVOD_SIZE": "3",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
    }


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=24))
def test_places_are_those_of_horovods_own_rule(hosts: list[str]) -> None:
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments

    counts = Counter(hosts)  # in the order of first appearance
    slots = get_host_assignments([HostInfo(host, count) for host, count in counts.items()], len(hosts))
    found = sorted(assign(hosts), key=lambda place: place.rank)
    assert [place.environment() for place in found] == [
        {
            "HOROVOD_HOSTNAME": slot.hostname,
            "HOROVOD_RANK": str(slot.rank),
            "HOROVOD_SIZE": str(slot.size),
            "HOROVOD_LOCAL_RANK": str(slot.local_rank),
            "HOROVOD_LOCAL_SIZE": str(slot.local_size),
            "HOROVOD_CROSS_RANK": str(slot.cross_rank),
            "HOROVOD_CROSS_SIZE": str(slot.cross_size),
        }
        for slot in slots
    ]
    assert assign(hosts)[0].rank == 0
