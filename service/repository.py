"""The bundles of a models folder, by name and version."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from service.bundle import BundleIncomplete, Modality, find_bundles
from service.errors import ModalityNotServed, UnknownModel, UnknownVersion
from service.graphs import SessionOptions
from service.loading import LoadedBundle, VariantMissing, open_bundle
from service.versions import VersionPolicy


class Repository:
    """The served bundles: versions by name, newest last.  Never changes; another replaces it."""

    def __init__(
        self,
        bundles: Sequence[LoadedBundle],
        defaults: Mapping[Modality, str] | None = None,
        pinned: Mapping[str, str] | None = None,
    ) -> None:
        """`defaults`: model by modality; the first name where none is given.  `pinned`: the
        version of a model that answers where none is named; the highest where none is given.

        Raises UnknownModel when a default is not among the bundles of its modality.
        """
        self._pinned = pinned or {}
        self._models: dict[str, dict[str, LoadedBundle]] = {}
        for bundle in sorted(bundles, key=lambda b: b.ref):
            self._models.setdefault(bundle.name, {})[bundle.version] = bundle
        self.defaults: dict[Modality, str] = {}
        for name in self._models:
            self.defaults.setdefault(self.get(name).modality, name)
        for modality, name in (defaults or {}).items():
            named = [n for n in self._models if self.get(n).modality == modality]
            if name not in named:
                raise UnknownModel(name, named, kind=f"{modality} model")
            self.defaults[modality] = name

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def all(self) -> list[LoadedBundle]:
        return [bundle for versions in self._models.values() for bundle in versions.values()]

    def versions(self, name: str) -> list[str]:
        return list(self._models[name])

    def default(self, modality: Modality) -> str:
        """The model that answers inputs of that kind.  Raises ModalityNotServed."""
        if modality not in self.defaults:
            raise ModalityNotServed(modality, self.names)
        return self.defaults[modality]

    def get(self, name: str, version: str | None = None) -> LoadedBundle:
        """No version: the pinned one, else the highest.  Raises UnknownModel, UnknownVersion."""
        if name not in self._models:
            raise UnknownModel(name, self.names)
        versions = self._models[name]
        version = self._pinned.get(name) if version is None else version
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            raise UnknownVersion(name, version, list(versions))
        return versions[version]


def open_repository(
    models_dir: Path,
    options: SessionOptions,
    defaults: Mapping[Modality, str] | None = None,
    int8_models: Collection[str] = (),
    policy: VersionPolicy | None = None,
) -> Repository:
    """The versions below `models_dir` that the policy wants, each verified; None: all.

    Raises BundleError naming the file, ProviderUnavailable, UnknownModel, VariantMissing.
    """
    refs = find_bundles(models_dir) if models_dir.is_dir() else []
    if not refs:
        raise no_bundles(models_dir)
    names = sorted({ref.name for ref in refs})
    if unknown := sorted(set(int8_models) - set(names)):
        raise VariantMissing(
            f"OODSCORE_INT8_MODELS names {', '.join(unknown)}, but {models_dir} holds "
            f"{', '.join(names)}; correct the setting"
        )
    policy = policy or VersionPolicy()
    for name, version in policy.pinned.items():
        if (name, version) not in {(ref.name, ref.version) for ref in refs}:
            raise BundleIncomplete(
                models_dir / name / version,
                "is missing, but OODSCORE_DEFAULT_VERSIONS names it; put it there, or correct "
                "the setting",
            )
    wanted = policy.wanted(refs)
    bundles = [open_bundle(ref, options, int8=ref.name in int8_models) for ref in wanted]
    return Repository(bundles, defaults, policy.pinned)


def no_bundles(models_dir: Path) -> BundleIncomplete:
    return BundleIncomplete(
        models_dir,
        "holds no bundle (expected <name>/<version>/manifest.json); train one with "
        "oodscore-train or set OODSCORE_MODELS_DIR",
    )
