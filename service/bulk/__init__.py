"""Scores of whole data sets: a table of inputs in, a Parquet table of scores out.

Needs the extra `bulk`; import it only where a table is asked for.
"""

from service.bulk.engines import EngineName
from service.bulk.errors import (
    BulkError,
    EngineMissing,
    InputsUnusable,
    OutputTaken,
    PartitionFailed,
)
from service.bulk.job import InputLimits, Job
from service.bulk.partitions import DataSet, Partition, find_inputs, modality_of
from service.bulk.reading import INPUTS, read_partition
from service.bulk.run import Outcome, Workers, run_bulk
from service.bulk.tables import Model, score_table, scores_schema
from service.bulk.worker import open_model, score_partition

__all__ = [
    "INPUTS",
    "BulkError",
    "DataSet",
    "EngineMissing",
    "EngineName",
    "InputLimits",
    "InputsUnusable",
    "Job",
    "Model",
    "Outcome",
    "OutputTaken",
    "Partition",
    "PartitionFailed",
    "Workers",
    "find_inputs",
    "modality_of",
    "open_model",
    "read_partition",
    "run_bulk",
    "score_partition",
    "score_table",
    "scores_schema",
]
