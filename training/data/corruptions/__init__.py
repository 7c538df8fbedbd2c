"""Images made worse in sixteen everyday ways and five severities; arXiv:1903.12261.

No package that is maintained and light does this for 32 x 32 images, so it is written here, from
the published constants; docs/corruptions.md lists them and where ours differs.
"""

from training.data.corruptions.suite import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    corrupt,
)

__all__ = ["CORRUPTIONS", "EXTRA_CORRUPTIONS", "SEVERITIES", "corrupt"]
