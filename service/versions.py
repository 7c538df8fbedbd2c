"""Which versions of a model are loaded, and which of them answers where a request names none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.bundle import BundleRef


@dataclass(frozen=True)
class VersionPolicy:
    """`loaded`: so many of the highest versions of each model, None: all; a pinned one besides.

    `pinned`: model -> version that is its default; a model not in it: the highest loaded one.
    """

    loaded: int | None = None
    pinned: Mapping[str, str] = field(default_factory=dict[str, str])

    def is_pinned(self, ref: BundleRef) -> bool:
        return self.pinned.get(ref.name) == ref.version

    def wanted(self, refs: Sequence[BundleRef]) -> list[BundleRef]:
        """Of all versions of all models those to load, in order."""
        kept: list[BundleRef] = []
        for name in sorted({ref.name for ref in refs}):
            versions = sorted(ref for ref in refs if ref.name == name)
            newest = versions if self.loaded is None else versions[-self.loaded :]
            kept += [ref for ref in versions if ref in newest or self.is_pinned(ref)]
        return kept
