"""What ends a bulk run.  An input that cannot be read does not: it becomes a row with an error."""


class BulkError(Exception):
    """The message says what to do."""


class InputsUnusable(BulkError):
    """Nothing to score, or nothing one model could score."""


class OutputTaken(BulkError):
    """The output holds, or is becoming, something else."""


class PartitionFailed(BulkError):
    """Its worker died or raised, more often than chance explains."""


class EngineMissing(BulkError):
    """The package of an engine is not installed."""
