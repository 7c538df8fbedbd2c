"""What runs in a worker process, wherever it is: open the bundle once, score partitions."""

import threading
from functools import lru_cache

from service.admission import PixelBudget
from service.batches import BatchLimits
from service.bulk.arrow import pa, to_bytes
from service.bulk.errors import PartitionFailed
from service.bulk.job import Job
from service.bulk.partitions import Partition
from service.bulk.reading import read_partition
from service.bulk.tables import Model, score_table
from service.bundle import BundleCorrupt
from service.decoding import ImageLimits
from service.graphs import SessionOptions
from service.loading import open_bundle
from service.scoring import Scorer

_PADDED_TOKENS = 4096  # of a batch of texts; one longer text goes alone
_opening = threading.Lock()  # a worker of a cluster may be several threads


def score_partition(job: Job, partition: Partition) -> bytes:
    """A table of scores as an Arrow stream.

    Raises PartitionFailed alone: other exceptions do not survive the way to another process.
    """
    try:
        with _opening:
            model = _opened(job)
        tables = [score_table(inputs, model) for inputs in read_partition(job, partition)]
        return to_bytes(pa.concat_tables(tables))
    except Exception as exc:
        raise PartitionFailed(
            f"partition {partition.number}, inputs {partition.start} to "
            f"{partition.start + partition.count - 1}: {exc}"
        ) from None


@lru_cache(maxsize=1)
def _opened(job: Job) -> Model:
    return open_model(job)


def open_model(job: Job) -> Model:
    """The bundle with every graph the job needs; one thread a session.

    Raises BundleError, ServiceError, ProviderUnavailable, VariantMissing.
    """
    options = SessionOptions(job.provider, threads=1, max_rows=1)
    bundle = open_bundle(job.bundle, options, int8=job.int8)
    if job.digest and bundle.digest != job.digest:
        raise BundleCorrupt(job.bundle.path, "is not the bundle this run began with")
    plan = bundle.plan(job.detectors, job.id_acceptance)
    for graph in plan.graphs:
        bundle.session(graph)
    limits = ImageLimits(job.limits.max_image_bytes, job.limits.max_pixels)
    batches = BatchLimits(job.batch, job.batch, _PADDED_TOKENS)
    scorer = Scorer(limits, PixelBudget(job.limits.max_pixels), batches)
    return Model(bundle, plan, scorer, job.limits.max_text_characters)
