"""Workers of a Dask cluster; without an address, of one that lives on this machine meanwhile."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any
from uuid import uuid4

from service.bulk.engines.packages import package
from service.bulk.errors import PartitionFailed
from service.bulk.job import Job
from service.bulk.partitions import Partition
from service.bulk.worker import score_partition

_UNDER_WAY = 2  # partitions a thread of the cluster


def run(
    job: Job, partitions: Sequence[Partition], workers: int, address: str | None
) -> Iterator[tuple[Partition, bytes]]:
    """Dask gives the partitions of a worker that dies to others.

    Raises EngineMissing, PartitionFailed, OSError where there is no cluster.
    """
    distributed = package("distributed", "dask")
    with ExitStack() as stack:
        cluster = address or stack.enter_context(
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                host="127.0.0.1",
            )
        )
        client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        waiting = iter(partitions)
        run_id = uuid4().hex
        of_future: dict[str, Partition] = {}

        def submit(partition: Partition) -> Any:
            key = f"oodscore-{run_id}-{partition.number}"
            of_future[key] = partition
            return client.submit(score_partition, job, partition, key=key, pure=False)

        most = _UNDER_WAY * max(1, sum(client.ncores().values()))
        first = [submit(partition) for partition in islice(waiting, most)]
        done = distributed.as_completed(first, loop=client.loop)
        for future in done:
            try:
                data = future.result()
            except distributed.KilledWorker as exc:
                raise PartitionFailed(str(exc)) from exc
            yield of_future.pop(future.key), data
            future.release()
            for partition in islice(waiting, 1):
                done.add(submit(partition))
