"""The models folder: what lies in it, what of it is served.

A bundle is served once it is verified, open, and as warm as the version it follows.  Whatever is
wrong with a folder, what is served stays.  For one thread at a time; `states` for any.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from service.bundle import BundleRef, Modality, find_bundles
from service.loading import LoadedBundle
from service.logs import fields
from service.metrics import Metrics
from service.reloading.entry import Entry, VersionState
from service.reloading.fingerprint import fingerprint
from service.reloading.opening import EXPECTED, SessionSetup, describe, is_still, open_next
from service.repository import Repository, open_repository
from service.versions import VersionPolicy

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_GONE = (
    "its folder is gone; it is served from memory, because a setting names it or no other version "
    "can take its place"
)
_FOLDER_CHANGED = "it changed while it was read; it is read again once it rests"

Publish = Callable[[Repository], None]


class ModelsFolder:
    """`publish` hears of every repository that is to be served from then on."""

    def __init__(
        self,
        path: Path,
        setup: SessionSetup,
        policy: VersionPolicy,
        defaults: Mapping[Modality, str],
        metrics: Metrics,
    ) -> None:
        self._path = path
        self._setup = setup
        self._policy = policy
        self._configured = defaults
        self._metrics = metrics
        self._entries: dict[tuple[str, str], Entry] = {}
        self._repository: Repository | None = None
        self._publish: Publish = lambda _: None
        self._states: tuple[VersionState, ...] = ()
        self._problem: str | None = None
        self._ignored: set[str] = set()

    @property
    def states(self) -> tuple[VersionState, ...]:
        """Every version that lies in the folder or is served, as of now."""
        return self._states

    @property
    def problem(self) -> str | None:
        """Why the folder itself cannot be read, if so."""
        return self._problem

    def open(self, publish: Publish) -> None:
        """The start: everything that is to be loaded is right, or nothing is served.

        Raises BundleError naming the file, ProviderUnavailable, UnknownModel, VariantMissing.
        """
        refs = self._find() if self._path.is_dir() else []
        for ref in refs:
            seen = fingerprint(ref.path)
            self._entries[ref.name, ref.version] = Entry(ref, seen, tried=seen, settled=True)
        repository = open_repository(
            self._path,
            self._setup.options,
            self._configured,
            self._setup.int8_models,
            self._policy,
        )
        for bundle in repository.all():
            key = (bundle.name, bundle.version)
            self._entries.setdefault(key, Entry(bundle.ref, settled=True)).bundle = bundle
        for name in repository.names:
            for outcome in ("loaded", "refused", "retired"):
                self._metrics.bundle_reloads.labels(name, outcome)
        self._repository = repository
        self._publish = publish
        self._show()
        publish(repository)

    def look(self, *, at_once: bool = False) -> None:
        """Bring what is served in line with what lies there.

        `at_once`: believe every folder to be complete, and try again what was refused.
        """
        try:
            refs = self._find()
        except OSError as exc:
            self._trouble(f"cannot be read ({exc.strerror}); what was loaded stays")
            return
        if not refs:
            self._trouble("holds no bundle any more; what was loaded stays")
            return
        self._problem = None
        self._meet(refs, at_once=at_once)
        for name in sorted({name for name, _ in self._entries}):
            self._bring(name, again=at_once)
            self._show()

    def _find(self) -> list[BundleRef]:
        refs = find_bundles(self._path)
        strange = {ref.name for ref in refs if not _NAME.fullmatch(ref.name)}
        for name in strange - self._ignored:
            logger.error("folder %a is ignored: no model can have that name", name)
        self._ignored = strange
        return [ref for ref in refs if ref.name not in strange]

    def _trouble(self, problem: str) -> None:
        if problem != self._problem:
            logger.error("models folder %s %s", self._path, problem)
        self._problem = problem

    def _meet(self, refs: Collection[BundleRef], *, at_once: bool) -> None:
        there = {(ref.name, ref.version): ref for ref in refs}
        for key, ref in there.items():
            entry = self._entries.setdefault(key, Entry(ref))
            entry.look(fingerprint(ref.path), at_once=at_once)
        for key, entry in list(self._entries.items()):
            if key not in there:
                entry.miss(at_once=at_once)
                if entry.gone and entry.bundle is None:
                    del self._entries[key]

    def _bring(self, name: str, *, again: bool) -> None:
        """From the highest version down, until as many are served as may be."""
        limit = self._policy.loaded
        served = 0
        for entry in sorted(self._versions(name), key=lambda e: e.ref.number, reverse=True):
            if entry.gone:
                continue
            full = limit is not None and served >= limit
            if full and not self._policy.is_pinned(entry.ref):
                continue
            if entry.to_be_tried(again=again):
                self._try(entry)
            served += entry.bundle is not None
        self._settle(name)

    def _try(self, entry: Entry) -> None:
        entry.tried = entry.seen
        entry.loading = True
        self._show()
        try:
            if entry.bundle is not None and is_still(entry.ref, entry.bundle):
                entry.error = None
                return
            others = [e.bundle for e in self._versions(entry.ref.name) if e.bundle is not None]
            bundle = open_next(entry.ref, self._setup, others, self._default_of(entry.ref.name))
        except Exception as exc:  # of the bundle, of onnxruntime, of memory: all end here
            self._refuse(entry, exc)
            return
        finally:
            entry.loading = False
        if fingerprint(entry.ref.path) != entry.seen:
            entry.tried, entry.settled = None, False
            logger.warning("bundle %s: %s", entry.ref.path, _FOLDER_CHANGED)
            return
        self._take(entry, bundle)

    def _refuse(self, entry: Entry, exc: Exception) -> None:
        entry.error = describe(exc, self._path)
        name, version = entry.ref.name, entry.ref.version
        logger.error(
            "bundle refused: %s",
            str(exc),
            exc_info=None if isinstance(exc, EXPECTED) else exc,
            extra=fields(model=name, version=version),
        )
        self._metrics.bundle_reloads.labels(name, "refused").inc()

    def _take(self, entry: Entry, bundle: LoadedBundle) -> None:
        if entry.bundle is not None:
            logger.warning(
                "bundle exchanged under its version; publish a new version instead",
                extra=fields(model=bundle.name, version=bundle.version),
            )
        entry.bundle, entry.error = bundle, None
        self._metrics.bundle_reloads.labels(bundle.name, "loaded").inc()
        self._settle(bundle.name)

    def _settle(self, name: str) -> None:
        """Let go of what is not to be served any more, and publish what is."""
        kept = self._kept(name)
        for entry in self._versions(name):
            if entry.bundle is not None and entry not in kept:
                entry.bundle = None
                entry.error = None
                self._metrics.bundle_reloads.labels(name, "retired").inc()
            elif entry.bundle is not None and entry.gone:
                entry.error = _GONE
            if entry.bundle is None and entry.gone:
                del self._entries[name, entry.ref.version]
        served = [entry.bundle for entry in self._entries.values() if entry.bundle is not None]
        self._serve(served)

    def _kept(self, name: str) -> list[Entry]:
        """Never none because those that lie there are bad, or because a setting's is gone."""
        versions = self._versions(name)
        loaded = [entry for entry in versions if entry.bundle is not None]
        pinned = [entry for entry in loaded if self._policy.is_pinned(entry.ref)]
        there = sorted((entry for entry in loaded if not entry.gone), key=lambda e: e.ref.number)
        if there:
            newest = there if self._policy.loaded is None else there[-self._policy.loaded :]
            return newest + [entry for entry in pinned if entry not in newest]
        if pinned:
            return pinned
        wanted = name in self._configured.values() or any(not e.gone for e in versions)
        return loaded if wanted else []

    def _serve(self, bundles: Collection[LoadedBundle]) -> None:
        before = self._repository
        assert before is not None  # noqa: S101
        if {id(bundle) for bundle in bundles} == {id(bundle) for bundle in before.all()}:
            return
        names = {bundle.name for bundle in bundles}
        # a model that joins does not take over from the one that answered until now
        kept: dict[Modality, str] = {
            modality: name for modality, name in before.defaults.items() if name in names
        }
        defaults = kept | dict(self._configured)
        repository = Repository(list(bundles), defaults, self._policy.pinned)
        self._repository = repository
        self._show()
        self._publish(repository)
        logger.info(
            "models served",
            extra=fields(
                versions={name: repository.versions(name) for name in repository.names},
                default_versions={name: repository.get(name).version for name in repository.names},
            ),
        )

    def _versions(self, name: str) -> list[Entry]:
        return [entry for (of, _), entry in self._entries.items() if of == name]

    def _default_of(self, name: str) -> LoadedBundle | None:
        before = self._repository
        return before.get(name) if before is not None and name in before.names else None

    def _show(self) -> None:
        entries = sorted(self._entries.values(), key=lambda entry: entry.ref)
        self._states = tuple(entry.show() for entry in entries)
        refused = {entry.ref.name: 0 for entry in entries}
        for entry in entries:
            refused[entry.ref.name] += entry.error is not None
        self._metrics.set_bundles_refused(refused)
