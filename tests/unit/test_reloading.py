"""Versions that come, go and are damaged below a models folder that is being served."""

import gc
import logging
import os
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_bundles import DAMAGE, edit, flip, sign
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from tiny_bundle import PERTURBED, id_images, publish_tiny_bundle

from service.bundle import (
    FORWARD,
    GOLDEN,
    BundleIncomplete,
    Modality,
    read_golden,
    read_manifest,
    write_golden,
)
from service.graphs import SessionOptions
from service.loading import LoadedBundle
from service.metrics import Metrics
from service.reloading import ModelsFolder, SessionSetup, opening
from service.repository import Repository
from service.settings import Settings
from service.versions import VersionPolicy


@dataclass
class Served:
    """A folder that is served, and every repository that was."""

    path: Path
    folder: ModelsFolder
    metrics: Metrics
    repositories: list[Repository] = field(default_factory=list[Repository])

    @property
    def now(self) -> Repository:
        return self.repositories[-1]

    def loaded(self) -> dict[str, list[str]]:
        return {name: self.now.versions(name) for name in self.now.names}

    def settle(self) -> None:
        """Two looks: the first one sees that something is there, or is not."""
        self.folder.look()
        self.folder.look()

    def states(self, name: str = "tiny") -> dict[str, str]:
        return {s.version: s.state for s in self.folder.states if s.name == name}

    def error(self, version: str, name: str = "tiny") -> str | None:
        (state,) = [s for s in self.folder.states if (s.name, s.version) == (name, version)]
        return state.error

    def count(self, outcome: str, name: str = "tiny") -> float | None:
        labels = {"model": name, "outcome": outcome}
        return self.metrics.registry.get_sample_value("oodscore_bundle_reloads_total", labels)

    def refused(self, name: str = "tiny") -> float | None:
        return self.metrics.registry.get_sample_value("oodscore_bundles_refused", {"model": name})


def serve(
    path: Path,
    loaded: int | None = 2,
    pinned: Mapping[str, str] | None = None,
    defaults: Mapping[Modality, str] | None = None,
) -> Served:
    metrics = Metrics(CollectorRegistry())
    setup = SessionSetup(SessionOptions("cpu", threads=1))
    policy = VersionPolicy(loaded, pinned or {})
    folder = ModelsFolder(path, setup, policy, defaults or {}, metrics)
    served = Served(path, folder, metrics)
    folder.open(served.repositories.append)
    return served


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny/1 to 4, to be copied."""
    path = tmp_path_factory.mktemp("made")
    for version in "1234":
        publish_tiny_bundle(path, "tiny", version, seed=int(version), gradient=True)
    return path


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    """A folder that holds tiny/1."""
    shutil.copytree(made / "tiny" / "1", tmp_path / "models" / "tiny" / "1")
    return tmp_path / "models"


def put(made: Path, models: Path, version: str) -> Path:
    """As `publish` does: beside the place, then by its name."""
    beside = models / "tiny" / ".tmp-x"
    shutil.copytree(made / "tiny" / version, beside)
    return beside.rename(models / "tiny" / version)


def test_a_new_version_answers_and_the_one_before_stays_loaded(made: Path, models: Path) -> None:
    served = serve(models)
    put(made, models, "2")
    served.folder.look()
    assert served.states() == {"1": "serving", "2": "settling"}
    assert len(served.repositories) == 1
    served.folder.look()
    assert served.loaded() == {"tiny": ["1", "2"]}
    assert served.now.get("tiny").version == "2"
    assert served.states() == {"1": "serving", "2": "serving"}
    put(made, models, "3")
    served.settle()
    assert served.loaded() == {"tiny": ["2", "3"]}
    assert served.states() == {"1": "not_loaded", "2": "serving", "3": "serving"}
    assert (served.count("loaded"), served.count("retired"), served.count("refused")) == (2, 1, 0)
    for _ in range(3):
        served.settle()
    assert len(served.repositories) == 3


def test_no_version_too_many_is_loaded_at_any_time(made: Path, models: Path) -> None:
    served = serve(models, loaded=1)
    put(made, models, "2")
    put(made, models, "3")
    put(made, models, "4")
    served.settle()
    assert [repository.versions("tiny") for repository in served.repositories] == [["1"], ["4"]]
    everything = serve(models, loaded=None)
    assert everything.loaded() == {"tiny": ["1", "2", "3", "4"]}
    assert serve(models, loaded=3).loaded() == {"tiny": ["2", "3", "4"]}


def test_what_is_let_go_leaves_memory(made: Path, models: Path) -> None:
    served = serve(models, loaded=1)
    old: weakref.ReferenceType[LoadedBundle] = weakref.ref(served.now.get("tiny"))
    gc.collect()
    gc.disable()  # nothing may hold it in a circle
    try:
        put(made, models, "2")
        served.settle()
        served.repositories[:-1] = []
        assert old() is None
    finally:
        gc.enable()


def test_removing_a_version_goes_back_to_the_one_before(made: Path, models: Path) -> None:
    put(made, models, "2")
    served = serve(models, loaded=1)
    assert served.loaded() == {"tiny": ["2"]}
    shutil.rmtree(models / "tiny" / "2")
    served.folder.look()  # may be an exchange
    assert served.loaded() == {"tiny": ["2"]}
    served.folder.look()
    assert served.loaded() == {"tiny": ["1"]}
    assert served.states() == {"1": "serving"}
    assert (served.count("loaded"), served.count("retired")) == (1, 1)


def test_a_pinned_version_answers_whatever_is_published(made: Path, models: Path) -> None:
    served = serve(models, loaded=1, pinned={"tiny": "1"})
    put(made, models, "2")
    served.settle()
    assert served.loaded() == {"tiny": ["1", "2"]}
    assert served.now.get("tiny").version == "1"
    assert served.now.get("tiny", "2").version == "2"
    put(made, models, "3")
    served.settle()
    assert served.loaded() == {"tiny": ["1", "3"]}
    shutil.rmtree(models / "tiny" / "1")
    served.settle()
    assert served.now.get("tiny").version == "1"
    assert "its folder is gone" in str(served.error("1"))
    assert served.refused() == 1
    put(made, models, "1")
    served.settle()
    assert (served.error("1"), served.refused()) == (None, 0)


def test_a_pinned_version_that_is_missing_stops_the_start(models: Path) -> None:
    with pytest.raises(BundleIncomplete, match=r"tiny/7.*OODSCORE_DEFAULT_VERSIONS"):
        serve(models, pinned={"tiny": "7"})


def test_a_model_comes_and_goes(models: Path) -> None:
    served = serve(models)
    publish_tiny_bundle(models, "another", "1", seed=9)
    served.settle()
    assert served.loaded() == {"another": ["1"], "tiny": ["1"]}
    assert served.now.default("image") == "tiny"  # a model that joins takes over from nobody
    shutil.rmtree(models / "another")
    served.settle()
    assert served.loaded() == {"tiny": ["1"]}
    assert served.refused("another") is None


def test_the_default_model_of_a_setting_stays_though_its_folder_goes(models: Path) -> None:
    publish_tiny_bundle(models, "another", "1", seed=9)
    served = serve(models, defaults={"image": "another"})
    shutil.rmtree(models / "another")
    served.settle()
    assert served.now.default("image") == "another"
    assert "its folder is gone" in str(served.error("1", "another"))


def test_a_models_folder_that_vanishes_changes_nothing(models: Path) -> None:
    served = serve(models)
    hidden = models.rename(models.with_name("hidden"))
    for _ in range(4):
        served.settle()
        assert served.loaded() == {"tiny": ["1"]}
        assert "holds no bundle" in str(served.folder.problem)
    hidden.rename(models)
    served.settle()
    assert served.folder.problem is None
    assert len(served.repositories) == 1


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_bundle_changes_nothing(
    made: Path, models: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage, message = DAMAGE[kind]
    served = serve(models)
    before = served.now
    damage(put(made, models, "2"))
    served.settle()
    assert served.now is before
    assert served.states() == {"1": "serving", "2": "refused"}
    error = str(served.error("2"))
    assert message in error
    assert error.startswith("tiny/2")
    assert str(models) not in error
    assert any("bundle refused" in record.getMessage() for record in caplog.records)
    assert (served.count("refused"), served.count("loaded"), served.refused()) == (1, 0, 1)


def test_a_bad_bundle_is_tried_again_only_once_it_changed(
    made: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    real = opening.open_bundle
    monkeypatch.setattr(
        opening, "open_bundle", lambda ref, *a, **k: tried.append(ref.version) or real(ref, *a, **k)
    )
    served = serve(models)
    folder = put(made, models, "2")
    flip(folder, FORWARD)
    for _ in range(6):
        served.folder.look()
    assert (tried, served.count("refused")) == (["2"], 1)
    served.folder.look(at_once=True)
    assert (tried, served.count("refused")) == (["2", "2"], 2)
    flip(folder, FORWARD)  # whole again
    served.settle()
    assert served.loaded() == {"tiny": ["1", "2"]}
    assert (served.error("2"), served.refused(), tried) == (None, 0, ["2"] * 3)


def test_a_bad_version_does_not_keep_a_good_one_below_it_out(made: Path, models: Path) -> None:
    served = serve(models, loaded=1)
    put(made, models, "2")
    flip(put(made, models, "3"), FORWARD)
    served.settle()
    assert served.loaded() == {"tiny": ["2"]}
    assert served.states() == {"1": "not_loaded", "2": "serving", "3": "refused"}


def test_a_slow_copy_is_left_alone_until_it_rests(made: Path, models: Path) -> None:
    served = serve(models)
    target = models / "tiny" / "2"
    target.mkdir()
    for file in sorted((made / "tiny" / "2").iterdir()):
        shutil.copy(file, target)
        served.folder.look()
        assert served.states() == {"1": "serving", "2": "settling"}
    served.folder.look()
    assert served.loaded() == {"tiny": ["1", "2"]}
    assert served.count("refused") == 0


def test_a_folder_that_changes_while_it_is_read_waits(
    made: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = opening.open_bundle

    def meanwhile(ref: Any, *args: Any, **kwargs: Any) -> LoadedBundle:
        bundle = real(ref, *args, **kwargs)
        os.utime(ref.path / FORWARD)
        monkeypatch.undo()
        return bundle

    served = serve(models)
    put(made, models, "2")
    monkeypatch.setattr(opening, "open_bundle", meanwhile)
    served.settle()
    assert served.states() == {"1": "serving", "2": "settling"}
    served.settle()
    assert served.states() == {"1": "serving", "2": "serving"}
    assert served.count("refused") == 0


def test_a_served_version_that_is_damaged_stays_in_memory(models: Path) -> None:
    served = serve(models)
    before = served.now
    flip(models / "tiny" / "1", FORWARD)
    served.settle()
    assert served.now is before
    assert served.states() == {"1": "serving"}
    assert "digest" in str(served.error("1"))
    assert served.refused() == 1
    flip(models / "tiny" / "1", FORWARD)
    served.settle()
    assert served.now is before  # touched, and yet the same
    assert (served.error("1"), served.refused(), served.count("loaded")) == (None, 0, 0)


def test_a_version_that_is_exchanged_is_served_as_it_is_now(
    made: Path, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(models)
    before = served.now.get("tiny").digest
    shutil.rmtree(models / "tiny" / "1")
    shutil.copytree(made / "tiny" / "2", models / "tiny" / "1")
    edit(models / "tiny" / "1", version="1")
    served.settle()
    assert served.loaded() == {"tiny": ["1"]}
    assert served.now.get("tiny").digest != before
    assert "publish a new version instead" in caplog.text


def test_graphs_in_use_are_open_before_the_next_version_answers(made: Path, models: Path) -> None:
    served = serve(models)
    put(made, models, "2")
    served.settle()
    assert served.now.get("tiny").state(PERTURBED) == "not_opened"
    served.now.get("tiny").session(PERTURBED)
    put(made, models, "3")
    served.settle()
    third = served.now.get("tiny")
    assert (third.version, third.state(PERTURBED)) == ("3", "ready")
    scores = third.session(PERTURBED).run(id_images(2, 1), ["score/odin"])["score/odin"]
    assert scores.shape == (2,)


def test_a_graph_in_use_that_is_wrong_refuses_the_version(made: Path, models: Path) -> None:
    served = serve(models)
    served.now.get("tiny").session(PERTURBED)
    folder = put(made, models, "2")
    golden = read_golden(folder, read_manifest(folder))
    golden.outputs["score/odin"] += np.float32(0.01)
    write_golden(folder, golden)
    sign(folder, GOLDEN)
    served.settle()
    assert served.states() == {"1": "serving", "2": "refused"}
    assert "score/odin" in str(served.error("2"))


def test_an_error_nobody_foresaw_refuses_the_version_too(
    made: Path, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError("secret")

    served = serve(models)
    put(made, models, "2")
    monkeypatch.setattr("service.reloading.opening.open_bundle", broken)
    served.settle()
    assert served.error("2") == "could not be opened (MemoryError); the log has the cause"
    assert "secret" in caplog.text


def test_folders_that_cannot_be_models_are_no_names(
    made: Path, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(models)
    for strange in ("Übermodel", os.fsdecode(b"\xff"), "a b"):
        shutil.copytree(made / "tiny" / "1", models / strange / "1")
    served.settle()
    served.settle()
    assert served.loaded() == {"tiny": ["1"]}
    assert {state.name for state in served.folder.states} == {"tiny"}
    ignored = [r for r in caplog.records if "is ignored" in r.getMessage()]
    assert len(ignored) == 3
    assert all(record.levelno == logging.ERROR for record in ignored)


def test_settings_are_read_from_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODSCORE_LOADED_VERSIONS", "all")
    monkeypatch.setenv("OODSCORE_DEFAULT_VERSIONS", " cifar10=1, clinc150 = 3,")
    monkeypatch.setenv("OODSCORE_RELOAD_SECONDS", "off")
    settings = Settings()
    assert (settings.loaded_versions, settings.reload_seconds) == (None, None)
    assert settings.default_versions == {"cifar10": "1", "clinc150": "3"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loaded_versions", "0", "greater than or equal to 1"),
        ("default_versions", "cifar10", "NAME=VERSION"),
        ("default_versions", "a=1,a=2", "named twice"),
        ("default_versions", "a=01", "pattern"),
        ("default_versions", "A=1", "pattern"),
        ("reload_seconds", "0", "greater than or equal to 0.1"),
    ],
)
def test_settings_that_say_nothing_sensible(name: str, value: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert name in str(caught.value)
