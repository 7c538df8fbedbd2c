"""A classifier trained outside becomes a bundle whose served scores are those of torch."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from live_server import live_server
from own_models import (
    MEAN,
    STD,
    Sorter,
    trained_sorter,
    write_list,
    write_photos,
    write_weights,
)
from PIL import Image
from safetensors.torch import load_file
from scipy.special import expit
from scipy.stats import spearmanr
from typer.testing import CliRunner

from service.bundle import FORWARD, read_manifest
from training.cli import app
from training.config import load_config
from training.data import load_roles
from training.export import open_network, relative_gap
from training.fitting import torch_network
from training.pipeline import run
from training.restore import load_scorers

INPUT = ["--size", "28", "--mean", str(MEAN), "--std", str(STD)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sorter.safetensors and photos/."""
    folder = tmp_path_factory.mktemp("shop")
    write_weights(trained_sorter(), folder / "sorter.safetensors")
    write_photos(folder / "photos")
    return folder


def fit(shop: Path, *more: str, network: str = "own_models:Sorter", models: Path | None = None):
    """Run the command -> exit code, last line of stdout, error."""
    arguments = ["fit", network, "--weights", str(shop / "sorter.safetensors"), *INPUT]
    arguments += ["--models", str(models or shop / "models"), *more]
    result = CliRunner().invoke(app, arguments)
    return result


@pytest.fixture(scope="module")
def bundle(shop: Path) -> Path:
    result = fit(shop, "--data", str(shop / "photos"), "--name", "sorter")
    assert result.exit_code == 0, result.output + repr(result.exception)
    folder = Path(result.stdout.splitlines()[-1])
    assert folder == shop / "models" / "sorter" / "1"
    return folder


def test_layers_are_found_and_listed(shop: Path, bundle: Path) -> None:
    config = load_config(bundle.with_suffix(".toml"))
    assert config.backbone_options["taps"] == ["stem", "down", "body"]
    assert config.backbone_options["head"] == "answer"
    result = fit(shop, "--list-layers")
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["stem", "down", "body"]
    assert any("body.0" in line and "Conv2d, 16 x 7 x 7" in line for line in lines)
    assert "answer" in lines[-1]
    assert "24 features -> 10 classes" in lines[-1]


def test_the_network_stays_as_it_was_given(shop: Path, bundle: Path) -> None:
    """Logits of the bundle's graph against the plain module."""
    plain = Sorter()
    plain.load_state_dict(
        {
            name.removeprefix("module."): value
            for name, value in load_scorers(bundle).classifier.backbone.state_dict().items()
        }
    )
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 28, 28, 1), dtype=np.uint8)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    with torch.no_grad():
        expected = plain.eval()(images).numpy()
    logits = open_network(bundle / FORWARD)(pixels)["logits"]
    assert relative_gap(expected, logits) < 1e-4


def test_served_scores_are_those_of_torch(shop: Path, bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.policy.primary == "combined"
    files = sorted((shop / "photos").rglob("*.png"))[::80]
    pixels = np.stack([np.asarray(Image.open(file))[..., None] for file in files])
    expected = torch_network(load_scorers(bundle).forward)(pixels)
    stream = io.BytesIO()
    np.save(stream, pixels)
    with live_server(bundle.parents[1]) as server:
        names = [spec.name for spec in manifest.detectors]
        answer = server.client.post(
            "/score?detectors=" + ",".join(names),
            content=stream.getvalue(),
            headers={"content-type": "application/x-npy"},
        )
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert len(results) == len(files)
    for name in names:
        served = np.array([one["detectors"][name]["score"] for one in results], np.float32)
        assert relative_gap(expected[f"score/{name}"], served) < 1e-4, name


@torch.no_grad()
def test_served_scores_agree_with_an_independent_library(shop: Path, bundle: Path) -> None:
    """pytorch-ood, fitted on features that the plain module gives, against the bundle's graph."""
    from pytorch_ood.detector import (
        GEN,
        KNN,
        RMD,
        EnergyBased,
        Mahalanobis,
        MaxLogit,
        MaxSoftmax,
        ViM,
    )

    plain = Sorter()
    plain.load_state_dict(load_file(shop / "sorter.safetensors"))
    trunk = torch.nn.Sequential(plain.stem, plain.down, plain.body, plain.hidden).eval()
    config = load_config(bundle.with_suffix(".toml"))
    roles = load_roles(config.data, config.form, config.seed)

    def features(pixels: np.ndarray) -> torch.Tensor:
        return trunk((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD)

    train, labels = features(roles.train_id.inputs), torch.from_numpy(roles.train_id.labels)
    pixels = np.concatenate([roles.test_id.inputs, roles.test_ood["noise"].inputs[:40]])
    query = features(pixels)
    logits = plain.answer(query)
    served = {
        name.removeprefix("score/"): value
        for name, value in open_network(bundle / FORWARD)(pixels).items()
    }
    fitted = {spec.name: spec.hyperparameters for spec in read_manifest(bundle).detectors}
    head = plain.answer
    dim, k = fitted["vim"]["principal_dim"], fitted["knn"]["neighbour"]
    knn = KNN(None, k=k).fit_features(train, labels)
    vim = ViM(None, d=dim, w=head.weight, b=head.bias).fit_features(train, labels)
    expected = {
        "energy": EnergyBased.score(logits),
        "max_logit": MaxLogit.score(logits),
        "knn": knn.predict_features(query),
        "vim": vim.predict_features(query),
    }
    for name, values in expected.items():
        assert relative_gap(values.numpy(), served[name]) < 1e-3, name
    np.testing.assert_allclose(-expit(-served["msp"]), MaxSoftmax.score(logits), rtol=1e-4)
    # theirs clips probabilities to 1e-7, and takes the mean over the classes where ours sums
    unclipped = (torch.softmax(logits, 1).min(dim=1).values > 1e-7).numpy()
    assert unclipped.sum() > 10
    sums = 10 * GEN.score(logits).numpy()
    np.testing.assert_allclose(np.exp(served["gen"])[unclipped], sums[unclipped], rtol=1e-3)
    # theirs inverts the covariance as it is, ours shrinks it first: the same order
    for name, method in (("mahalanobis", Mahalanobis), ("rmds", RMD)):
        theirs = method(None).fit_features(train, labels).predict_features(query)
        assert spearmanr(theirs, served[name]).statistic > 0.98, name


def test_noise_is_told_from_digits(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    noise = np.random.default_rng(5).integers(0, 256, (50, 28, 28, 1), dtype=np.uint8)
    scores = open_network(bundle / FORWARD)(noise)["score/combined"]
    assert (scores > manifest.detector("combined").threshold).mean() > 0.9


def test_the_written_config_makes_the_same_bundle_again(shop: Path, bundle: Path) -> None:
    again = run(load_config(bundle.with_suffix(".toml")), shop / "again", shop / "runs")
    first, second = read_manifest(bundle), read_manifest(again.path)
    assert second.provenance.config == first.provenance.config
    assert [d.threshold for d in second.detectors] == [d.threshold for d in first.detectors]


def test_a_table_and_a_dataset_serve_as_data(shop: Path) -> None:
    write_list(shop / "photos", shop / "list.csv")
    columns = ["--image-column", "file", "--label-column", "digit"]
    chosen = ["--detectors", "msp,energy", "--taps", ""]
    for name, data in (("listed", str(shop / "list.csv")), ("pairs", "own_models:Pairs")):
        more = columns if name == "listed" else []
        result = fit(shop, "--data", data, "--name", name, *chosen, *more)
        assert result.exit_code == 0, result.output + repr(result.exception)
        manifest = read_manifest(shop / "models" / name / "1")
        assert [d.name for d in manifest.detectors] == ["msp", "energy"]
        assert manifest.policy.primary == "energy"
    shutil.rmtree(shop / "models" / "listed")
    shutil.rmtree(shop / "models" / "pairs")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--detectors", "openmax,knn", "--held-out", "few"], "openmax needs 3 inputs of each"),
        (["--detectors", "mahalonobis"], "no detectors ['mahalonobis']"),
        (["--taps", "stemm"], "near: stem"),
        (["--mean", "3.0"], "do not fit"),
        (["--id-acceptance", "0.999"], "at least"),
    ],
)
def test_refusals_name_the_numbers(shop: Path, more: list[str], said: str, tmp_path: Path) -> None:
    data = shop / "photos"
    if "few" in more:  # two digits of nine classes are no tail of distances
        data = tmp_path / "few"
        write_photos(data, count=400)
        for folder in sorted(data.iterdir())[1:]:
            for file in sorted(folder.iterdir())[2:]:
                file.unlink()
        more = [str(shop / "photos") if part == "few" else part for part in more]
        more += ["--test", str(shop / "photos")]
    result = fit(shop, "--data", str(data), "--name", "refused", *more)
    assert result.exit_code == 1
    assert said in str(result.exception)
    assert not (shop / "models" / "refused").exists()


def test_a_pickle_is_never_loaded(shop: Path, tmp_path: Path) -> None:
    torch.save(Sorter(), tmp_path / "whole.pt")
    result = fit(
        shop,
        *("--data", str(shop / "photos"), "--name", "refused"),
        *("--weights", str(tmp_path / "whole.pt")),
    )
    assert result.exit_code == 1
    assert "weights_only=True" in str(result.exception)


def test_a_network_that_gives_no_logits_is_refused(shop: Path) -> None:
    torch.manual_seed(0)
    result = fit(shop, "--list-layers", network="own_models:softmax_behind")
    assert result.exit_code == 1
