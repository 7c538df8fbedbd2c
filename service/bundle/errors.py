"""What can be wrong with a bundle.  Every message names the file and what to do.

BundleError
  BundleIncomplete   a file is missing, unreadable, or one too many
  BundleCorrupt      a file's content differs from its digest, or cannot be what it claims
  ManifestInvalid    manifest.json breaks the schema
  BundleUnsupported  schema version this code does not read
  GoldenMismatch     the graphs do not reproduce the golden outputs
"""

from pathlib import Path


class BundleError(Exception):
    """A bundle that must not be served."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class BundleIncomplete(BundleError):
    """A file the manifest names is missing, or a file it does not name is there."""


class BundleCorrupt(BundleError):
    """A file differs from its recorded digest or cannot be read as its format."""


class ManifestInvalid(BundleError):
    """manifest.json is not valid: unknown field, NaN, wrong type, broken reference."""


class BundleUnsupported(BundleError):
    """The bundle's schema version is not the one this code reads."""


class GoldenMismatch(BundleError):
    """The loaded graphs give other outputs on the golden inputs than were recorded."""
