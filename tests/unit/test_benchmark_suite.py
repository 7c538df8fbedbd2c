"""Every experiment is whole and ready: parsed, checked, tried in small; `all` goes on and skips."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets
from typer.testing import CliRunner

from training import benchmarks
from training.active.own_studies import OWN_STUDIES
from training.benchmarks import BENCHMARKS, run_benchmark
from training.cli import app
from training.config import RunConfig, SourceConfig
from training.config_checks import built, check_config, detector_scores, untrained
from training.data import SOURCES, DataUnavailable
from training.data.downloads import without_downloads
from training.data.readers import TEXT_SOURCES
from training.detectors import DETECTORS
from training.evaluation.metrics import OodMetrics
from training.graph_detectors import GRAPH_DETECTORS
from training.published import PUBLISHED, PUBLISHED_MEANS
from training.studies import STUDIES, Study, load_study, measure_study
from training.suite import catalogue, command, run
from training.suite.catalogue import EXPERIMENTS, configs, is_finished
from training.suite.needs import needs
from training.suite.run import Wishes, hindrance, run_all

DOCS = Path(__file__).parents[2] / "docs"
GPU = sorted(name for name, experiment in EXPERIMENTS.items() if experiment.gpu)
OTHER_STUDIES = set(STUDIES) - {"cifar10-outliers"}
ARMS = [(name, arm) for name in EXPERIMENTS for arm in configs(name)]


def sources_of(config: RunConfig) -> list[SourceConfig]:
    data = config.data
    outliers = {} if config.outliers is None else config.outliers.sources
    sets = [data.train, data.held_out, data.test, *data.test_ood.values(), *outliers.values()]
    return [source for sources in sets for source in sources]


def test_the_catalogue_has_every_benchmark_and_study() -> None:
    assert list(EXPERIMENTS) == sorted({*BENCHMARKS, *STUDIES, *OWN_STUDIES})
    assert set(PUBLISHED) <= set(BENCHMARKS)
    assert set(PUBLISHED_MEANS) <= set(STUDIES)


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_every_config_would_run(name: str, arm: str) -> None:
    """Network, detectors, ensembles and readers are known and suit each other."""
    config = configs(name)[arm]
    check_config(config)
    readers = SOURCES if config.modality == "image" else TEXT_SOURCES
    for source in sources_of(config):
        assert source.source in readers
        if source.source == "torchvision":
            given = source.arguments
            taken = inspect.signature(getattr(datasets, given["dataset"])).parameters
            assert {"root", "download"} | set(given.get("options", {})) <= set(taken)
            assert "train" in taken or "split" in taken
        else:
            known = inspect.signature(readers[source.source]).parameters
            assert set(source.arguments) <= set(known)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_rows_are_of_sets_and_scores_that_the_config_has(name: str) -> None:
    config = configs(name)[name]
    detectors = {d.name: built(d, DETECTORS) for d in config.detectors if d.name in DETECTORS}
    sides = {d.name: built(d, GRAPH_DETECTORS) for d in config.detectors if d.name not in detectors}
    scores = set(detector_scores(config, detectors, sides, untrained(config)))
    scores |= {combiner.name for combiner in config.combiners}
    for ood_set, detector in PUBLISHED[name]:
        assert ood_set in config.data.test_ood
        assert detector in scores


@pytest.mark.parametrize("name", sorted(PUBLISHED_MEANS))
def test_published_means_are_of_arms_and_sets_that_the_study_has(name: str) -> None:
    arms = configs(name)
    metrics = set(inspect.signature(OodMetrics).parameters) | {"macro_f1"}
    for mean in PUBLISHED_MEANS[name]:
        config = arms[mean.arm]
        assert set(mean.sets) <= set(config.data.test_ood)
        assert mean.detector in {detector.name for detector in config.detectors}
        assert set(mean.metrics) <= metrics
        assert all(1 < value <= 100 for value in mean.metrics.values()), "per cent"


def tiny(config: dict[str, Any], images: Path) -> dict[str, Any]:
    """The same network, objective and detectors on a few made images, one epoch."""
    noise = {"source": "noise", "kind": "uniform", "count": 30, "seed": 5}
    ood = {name: [{**noise, "seed": 6 + i}] for i, name in enumerate(config["data"]["test_ood"])}
    data = {
        "train": [{"source": "npz", "path": str(images)}],
        "test": [{"source": "npz", "path": str(images)}],
        "dev_count": 20,
        "cal_count": 24,
        "test_ood": ood,
        "proxy_ood": config["data"].get("proxy_ood", []),
    }
    small = {**config, "data": data, "several_passes_limit": 24}
    small["input"] = {**config["input"], "height": 8, "width": 8}
    small["optimiser"] = {**config["optimiser"], "epochs": 1, "batch_size": 20}
    few = {"fssd": {"noise_count": 8}, "vmdls": {"epochs": 1}}
    small["detectors"] = [
        {**d, "options": few[d["name"]]} if d["name"] in few else d for d in config["detectors"]
    ]
    return small


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 of ten colours."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(130) % 10
    colours = rng.integers(0, 200, (10, 1, 1, 3))
    pixels = colours[labels] + rng.integers(0, 56, (130, 32, 32, 3))
    np.savez(path, images=pixels.astype(np.uint8), labels=labels)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*GPU} & {*BENCHMARKS}))
def test_a_network_that_wants_a_gpu_goes_through_in_small(
    name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = tiny(configs(name)[name].model_dump(mode="json"), images)
    small = RunConfig.model_validate(values)
    monkeypatch.setattr(benchmarks, "benchmark_config", lambda _: small)
    report = run_benchmark(name, (0,), tmp_path / "runs", tmp_path / "out")
    known = {(row.ood_set, row.detector): row for row in report.rows}
    for pair, published in PUBLISHED[name].items():
        assert known[pair].published == published
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    "name",
    [
        "cifar10-outliers",
        *(pytest.param(name, marks=pytest.mark.slow) for name in GPU if name in OTHER_STUDIES),
    ],
)
def test_a_study_that_wants_a_gpu_goes_through_in_small(
    name: str, images: Path, tmp_path: Path
) -> None:
    study = load_study(name).model_dump()
    study["base"] = tiny(study["base"], images)
    for arm in study["arms"]:
        recipe = arm["changes"].get("optimiser")
        if recipe is not None:
            recipe["batch_size"] = 20
        if "outliers" in arm["changes"]:
            noise = [{"source": "noise", "kind": "gaussian", "count": 40, "seed": 3}]
            arm["changes"]["outliers"] = {"count": 40, "sources": {"noise": noise}}
    arms = study["arms"] = [study["arms"][0], study["arms"][-1]]
    found = measure_study(Study.model_validate(study), (0,), tmp_path / "runs", tmp_path / "out")
    for arm in arms:
        measured = found["arms"][arm["name"]]["by_seed"]["0"]
        assert set(measured["metrics"]) == set(study["base"]["data"]["test_ood"])


def test_an_arm_without_its_outliers_is_left_out_and_said(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study("cifar10-outliers").model_dump()
    study["base"] = {**tiny(study["base"], images), "backbone_options": {}, "backbone": "lenet"}
    study["base"]["input"] |= {"height": 28, "width": 28}
    study["base"]["detectors"] = [{"name": "energy"}]
    gone = [{"source": "npz", "path": str(tmp_path / "gone.npz")}]
    study["arms"] = [study["arms"][0], study["arms"][-1]]
    study["arms"][1]["changes"]["outliers"]["sources"] = {"images": gone}
    whole = Study.model_validate(study)
    found = measure_study(whole, (0,), tmp_path / "runs", tmp_path / "out")
    assert list(found["arms"]) == ["none"]
    assert "energy_bounded: left out, outliers images: no source is av" in capsys.readouterr().err
    alone = whole.model_copy(update={"arms": whole.arms[1:]})
    with pytest.raises(DataUnavailable, match=r"gone\.npz"):
        measure_study(alone, (0,), tmp_path / "runs", tmp_path / "other")


def test_what_is_needed_and_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODSCORE_DATA", str(tmp_path))
    states = {need.name: need for need in needs("mnist")}
    assert (states["train"].state, states["train"].required) == ("download", True)
    assert (states["notmnist"].state, states["notmnist"].required) == ("missing", False)
    assert states["noise_uniform"].state == "here"
    assert hindrance("mnist", Wishes(download=True)) is None
    reason = hindrance("mnist", Wishes())
    assert reason is not None
    assert "train can be downloaded (torchvision MNIST): --download" in reason
    for part in ("mnist/train.npz", "mnist/test.npz"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).touch()
    assert hindrance("mnist", Wishes()) is None
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    assert {n.state for n in needs("cifar10-resnet") if n.required} == {"here"}
    assert hindrance("cifar10-resnet", Wishes()) == "needs a GPU: --gpu"
    assert hindrance("cifar10-resnet", Wishes(gpu=True)) is None
    missing = hindrance("newsgroups", Wishes(download=True))
    assert missing == "no train (${OODSCORE_DATA}/newsgroups20/all.jsonl.gz)"


def test_all_goes_on_where_it_stopped_and_says_what_it_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is not done again; data that turn out to be absent stop nothing."""
    ran: list[str] = []
    done = {"imbalance"}

    def measure(name: str, seeds: tuple[int, ...], runs: Path, out: Path) -> None:
        assert (seeds, runs, out) == ((0, 1), tmp_path / "runs" / name, tmp_path / "out" / name)
        if name == "objectives":
            raise DataUnavailable("gone since")
        ran.append(name)
        done.add(name)

    monkeypatch.setattr(run, "runner", lambda _: measure)
    monkeypatch.setattr(run, "is_finished", lambda name, *_: name in done)
    monkeypatch.setattr(
        run, "hindrance", lambda name, wishes: "needs a GPU: --gpu" if name in GPU else None
    )
    found = run_all((0, 1), tmp_path / "runs", tmp_path / "out", Wishes())
    assert list(found) == list(EXPERIMENTS)
    assert all(found[name] == "skipped, needs a GPU: --gpu" for name in GPU)
    assert found["objectives"] == "skipped, gone since"
    assert found["imbalance"].startswith("done before")
    assert set(ran) == set(EXPERIMENTS) - {*GPU, "objectives", "imbalance"}
    ran.clear()
    again = run_all((0, 1), tmp_path / "runs", tmp_path / "out", Wishes())
    assert ran == []
    assert again["mnist"].startswith("done before")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PyTorch finds no GPU here"):
        run_all((0,), tmp_path, tmp_path, Wishes(gpu=True))


def test_without_downloads_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Pets:
        def __init__(self, root: str, split: str, download: bool, small: bool) -> None:
            assert (root, split, small) == (str(tmp_path), "val", True)
            asked.append(download)
            if not download:
                raise RuntimeError("not found; use download=True")

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return datasets.folder.Image.new("RGB", (40, 40), (index, 0, 0)), index

    monkeypatch.setattr(datasets, "Pets", Pets, raising=False)
    spec = configs("cifar10-resnet")["cifar10-resnet"].input
    assert spec is not None
    given = {"dataset": "Pets", "root": str(tmp_path), "split": "val", "options": {"small": True}}
    found = SOURCES["torchvision"]("pets", spec, **given, limit=3)
    assert found.inputs[:, 0, 0, 0].tolist() == [0, 2, 4]
    with without_downloads(), pytest.raises(DataUnavailable, match="not found"):
        SOURCES["torchvision"]("pets", spec, **given)
    assert asked == [True, False]


def test_a_finished_result_is_of_the_same_config_and_seeds(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call measures only the first seed again, for the pictures; no third seed is read."""
    values = tiny(configs("mnist")["mnist"].model_dump(mode="json"), images)
    values |= {"primary": "energy", "detectors": [{"name": "energy"}], "combiners": []}
    values["input"] |= {"height": 28, "width": 28}
    small = RunConfig.model_validate(values)
    monkeypatch.setattr(benchmarks, "benchmark_config", lambda _: small)
    measured: list[int] = []
    original = benchmarks._measured

    def counted(name: str, config: RunConfig, runs: Path) -> Any:
        measured.append(config.seed)
        return original(name, config, runs)

    monkeypatch.setattr(benchmarks, "_measured", counted)
    runs, out = tmp_path / "runs", tmp_path / "out"
    first = run_benchmark("mnist", (0, 1), runs, out)
    assert benchmarks.finished("mnist", (0, 1), out)
    assert not benchmarks.finished("mnist", (0, 1, 2), out)
    assert catalogue.is_finished("mnist", (0, 1), out)
    again = run_benchmark("mnist", (0, 1), runs, out)
    assert measured == [0, 1, 0]
    assert again.rows == first.rows
    other = small.model_copy(update={"id_acceptance": 0.9})
    monkeypatch.setattr(benchmarks, "benchmark_config", lambda _: other)
    assert not benchmarks.finished("mnist", (0, 1), out)


def test_the_recorded_active_study_is_todays_and_not_of_other_seeds() -> None:
    recorded = DOCS.parent / "benchmarks" / "results" / "active-learning"
    assert is_finished("active-learning", (0, 1, 2, 3, 4), recorded)
    assert not is_finished("active-learning", (0, 5), recorded)
    assert not is_finished("active-learning", (0,), DOCS)


def test_the_list_says_what_each_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OODSCORE_DATA", raising=False)
    result = CliRunner().invoke(app, ["benchmark", "--list"])
    assert result.exit_code == 0, result.output
    for name in EXPERIMENTS:
        assert f" {name} " in result.stdout
    assert "left out: needs a GPU: --gpu" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "choose of active-learning"),
        (["mnist", "--gpu"], "leave the option out"),
        (["all", "--seeds", "a"], "is no list of numbers"),
        (["mnsit"], "no experiment 'mnsit'; did you mean mnist? Choose of active-learning"),
        (["zzzz"], "no experiment 'zzzz'; Choose of active-learning"),
        (["mnist", "--seeds", "0,0"], "each counts once"),
        (["mnist", "--seeds=-1"], "seeds are 0 or more"),
        (["mnist", "--out", f"{Path(__file__)}/x"], "is no folder; name another"),
        (["mnist", "--runs", f"{Path(__file__)}/x"], "is no folder; name another"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["benchmark", *arguments])
    assert result.exit_code == 2
    # a long path is broken anywhere
    assert "".join(message.split()) in "".join(result.output.replace("│", " ").split())


def test_the_commands_of_the_page_are_the_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is run; a measurement is replaced by a note of what it was asked for."""
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    asked: list[tuple[str, tuple[int, ...]]] = []

    def measure(name: str, seeds: tuple[int, ...], runs: Path, out: Path) -> None:
        asked.append((name, seeds))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "runner", lambda _: measure)
    monkeypatch.setattr(run, "hindrance", lambda *_: None)
    monkeypatch.setattr(command, "run_benchmark", measure)
    monkeypatch.setattr(command, "print_comparison", lambda _: None)
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "oodscore-train"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert asked == [("mnist", (0, 1, 2)), *((name, (0, 1, 2)) for name in EXPERIMENTS)]
