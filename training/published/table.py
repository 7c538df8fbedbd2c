"""What a table of published figures is."""

from collections.abc import Mapping

from training.evaluation.records import Published

# (OOD set, detector) -> records
PublishedTable = Mapping[tuple[str, str], tuple[Published, ...]]
