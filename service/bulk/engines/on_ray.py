"""Workers of a Ray cluster; without an address, of one that lives on this machine meanwhile."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from service.bulk.engines.packages import package
from service.bulk.errors import PartitionFailed
from service.bulk.job import Job
from service.bulk.partitions import Partition
from service.bulk.worker import score_partition

_UNDER_WAY = 2  # partitions a processor of the cluster
_RETRIES = 3


def run(
    job: Job, partitions: Sequence[Partition], workers: int, address: str | None
) -> Iterator[tuple[Partition, bytes]]:
    """Ray runs the partitions of a worker or node that dies elsewhere.

    Tasks rather than actors: actors that hold nearly all processors can wait for ever.
    Raises EngineMissing, PartitionFailed, ConnectionError where there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = package("ray", "ray")
    here = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(address=address or "local", log_to_driver=False, **here)
    try:
        score = ray.remote(num_cpus=1, max_retries=_RETRIES)(score_partition)
        job_there = ray.put(job)
        running: dict[Any, Partition] = {}
        waiting = iter(partitions)
        while True:
            most = _UNDER_WAY * max(1, int(ray.cluster_resources().get("CPU", 1)))
            for partition in islice(waiting, max(0, most - len(running))):
                running[score.remote(job_there, partition)] = partition
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                try:
                    data = ray.get(reference)
                except ray.exceptions.RayTaskError as exc:
                    raise PartitionFailed(str(exc.cause)) from exc
                except ray.exceptions.RayError as exc:
                    raise PartitionFailed(str(exc)) from exc
                yield running.pop(reference), data
    finally:
        ray.shutdown()
