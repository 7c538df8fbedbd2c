"""Every command of docs/your-own-model.md and docs/advise.md, run as it stands there."""

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from own_models import (
    trained_sorter,
    write_intents,
    write_intents_onnx,
    write_onnx,
    write_photos,
    write_screenshots,
    write_weights,
)
from PIL import Image
from scipy.special import expit
from scipy.stats import spearmanr
from typer.testing import CliRunner

from service.bundle import (
    FORWARD,
    TextEncoder,
    pad_tokens,
    read_calibration,
    read_manifest,
    threshold_at,
)
from service.captures.export import export_captures
from service.captures.record import CapturedInput, record_of
from service.cli import app as service_app
from training.advise.page import read_advice
from training.cli import app as training_app
from training.config import load_config
from training.data import load_roles
from training.detectors import DETECTORS
from training.evaluation.timing import Limits
from training.export import open_network, relative_gap
from training.fit import NEEDS, FitRequest, describe_layers, run_config
from training.fit.networks import NetworkFlags, network_of
from training.fitting import torch_network
from training.graph_detectors import GRAPH_DETECTORS
from training.restore import load_scorers

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "your-own-model.md").read_text()
BLOCKS, ADVICE = (
    [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]
    for page in (PAGE, (DOCS / "advise.md").read_text())
)
APPS = {"oodscore": service_app, "oodscore-train": training_app}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page says there is."""
    folder = tmp_path_factory.mktemp("shop")
    network = trained_sorter()
    write_weights(network, folder / "sorter.safetensors")
    write_onnx(network, folder / "sorter.onnx")
    write_photos(folder / "photos")
    write_screenshots(folder / "screenshots")
    write_photos(folder / "inbox", start=1400, count=160)
    write_screenshots(folder / "inbox" / "new", count=40)
    write_intents(folder)
    (folder / "shop").mkdir()
    (folder / "shop" / "networks.py").write_text("from own_models import Sorter as Sorter\n")
    return folder


def loose(name: str) -> float:
    """vim scales a small residual, and its rounding, up to a logit's size; combined reads it."""
    return 5e-3 if name in ("score/vim", "score/combined") else 1e-4


def run_block(block: list[str], shop: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each command -> its output."""
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    outputs: list[str] = []
    for command in block:
        program, *arguments = shlex.split(command)
        if arguments[0] == "score":
            arguments.append("--json")
        result = CliRunner().invoke(APPS[program], arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}{result.exception!r}"
        outputs.append(result.stdout)
    return outputs


def test_a_photograph_in_three_commands(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, published, scored = run_block(BLOCKS[0], shop, monkeypatch)
    assert [line.split()[1] for line in layers.splitlines() if line[0] == "*"] == [
        "stem",
        "down",
        "body",
    ]
    assert published.strip() == "models/sorter/1"
    answer = json.loads(scored)
    assert answer["decision"] == "ID"
    assert answer["label"] == "7"


def test_a_text_in_three_commands(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    published, scored, _ = run_block(BLOCKS[1], shop, monkeypatch)
    bundle = shop / published.strip()
    answer = json.loads(scored)
    manifest = read_manifest(bundle)
    assert answer["label"] in manifest.class_names == ("card", "weather", "travel")

    scorers = load_scorers(bundle)
    rows = [
        json.loads(line)["text"] for line in (shop / "questions.jsonl").read_text().splitlines()
    ][::60]
    from tokenizers import Tokenizer

    encoder = TextEncoder(Tokenizer.from_file(str(bundle / "tokenizer.json")), manifest.input)  # type: ignore
    tokens = pad_tokens([encoder.tokens(row).ids for row in rows], 0)
    expected = torch_network(scorers.forward)(tokens)
    given = open_network(bundle / FORWARD)(tokens)
    for name, values in expected.items():
        assert relative_gap(values, given[name]) < loose(name), name
    wider = open_network(bundle / FORWARD)(np.pad(tokens, ((0, 0), (0, 5))))
    for name, values in given.items():
        assert relative_gap(values, wider[name]) < loose(name), name
    own = transformers.AutoModelForSequenceClassification.from_pretrained(shop / "intents").eval()
    ids = torch.from_numpy(tokens)
    with torch.no_grad():
        logits = own(input_ids=ids, attention_mask=(ids != 0).long()).logits.numpy()
    assert relative_gap(logits, given["logits"]) < 1e-4
    agrees_with_an_independent_library(own, bundle, tokens, given)


@torch.no_grad()
def agrees_with_an_independent_library(
    own: torch.nn.Module, bundle: Path, tokens: np.ndarray, given: dict[str, np.ndarray]
) -> None:
    """pytorch-ood on what the user's own network gives, against the bundle's graph.

    vim is compared on images: three classes leave so little in the other directions of this
    network that theirs, in float32, reads rounding there.
    """
    from pytorch_ood.detector import KNN, EnergyBased, MaxSoftmax

    config = load_config(bundle.with_suffix(".toml"))
    train = load_roles(config.data, config.form, config.seed).train_id

    def features(rows: np.ndarray) -> torch.Tensor:
        ids = torch.from_numpy(rows)
        return own.bert(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output

    seen, labels, query = features(train.inputs), torch.from_numpy(train.labels), features(tokens)
    fitted = {spec.name: spec.hyperparameters for spec in read_manifest(bundle).detectors}
    logits = own.classifier(query)
    knn = KNN(None, k=fitted["knn"]["neighbour"]).fit_features(seen, labels)
    for name, values in {
        "energy": EnergyBased.score(logits),
        "knn": knn.predict_features(query),
    }.items():
        assert relative_gap(values.numpy(), given[f"score/{name}"]) < 1e-3, name
    np.testing.assert_allclose(-expit(-given["score/msp"]), MaxSoftmax.score(logits), rtol=1e-4)


def test_an_onnx_graph_in_one_command(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (published,) = run_block(BLOCKS[2], shop, monkeypatch)
    assert published.strip() == "models/sorter-onnx/1"


def test_layers_of_a_folder_go_by_number(shop: Path) -> None:
    pytest.importorskip("transformers")
    network = network_of(str(shop / "intents"), NetworkFlags(max_tokens=24))
    data = str(shop / "questions.jsonl")
    config, _ = run_config(FitRequest("intents", network, data, taps=["1", "layer3"]))
    assert config.backbone_options["layers"] == [1, 3]
    with pytest.raises(ValueError, match="numbers of layers are expected"):
        run_config(FitRequest("intents", network, data, taps=["pooler"]))
    described = json.loads((shop / "intents" / "config.json").read_text())
    count, width = described["num_hidden_layers"], described["hidden_size"]
    *layers, head = describe_layers(network)
    assert [line[2:] for line in layers] == [
        f"layer{number}  tokens x {width}" for number in range(1, count + 1)
    ]
    quarters = {count * quarter // 4 for quarter in (1, 2, 3)}
    assert {number for number in range(1, count + 1) if layers[number - 1][0] == "*"} == quarters
    assert head == f"  classifier  head: {width} features -> 3 classes"


def test_an_onnx_graph_of_texts_in_three_commands(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are those of the Hugging Face classifier it was exported from."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    write_intents_onnx(shop)
    layers, published, scored = run_block(BLOCKS[3], shop, monkeypatch)
    proposed = [line.split()[1:3] for line in layers.splitlines() if line[0] == "*"]
    assert proposed == [[f"layer_norm_{i}", "LayerNormalization,"] for i in (2, 4, 6)]
    bundle = shop / published.strip()
    manifest = read_manifest(bundle)
    options = manifest.provenance.config["backbone_options"]
    assert isinstance(options, dict)
    assert options["pooling"] == "cls"
    assert json.loads(scored)["label"] in manifest.class_names == ("card", "weather", "travel")
    own = transformers.AutoModelForSequenceClassification.from_pretrained(shop / "intents").eval()
    ids = torch.tensor([[5, 6, 7, 8, 2], [9, 3, 0, 0, 0]])
    with torch.no_grad():
        found = own(input_ids=ids, attention_mask=(ids != 0).long(), output_hidden_states=True)
    given = open_network(bundle / FORWARD)(ids.numpy())
    assert relative_gap(found.logits.numpy(), given["logits"]) < 1e-4
    taps = load_scorers(bundle).forward.classifier(ids).taps
    for layer, tap in enumerate(list(taps.values())[:3], start=1):
        assert relative_gap(found.hidden_states[layer][:, 0].numpy(), tap.numpy()) < 1e-4


def test_a_bundle_is_measured_on_data_of_ones_own(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the bundle of the first block was made."""
    (printed,) = run_block(BLOCKS[4], shop, monkeypatch)
    assert "screenshots" in printed
    assert printed.splitlines()[-1] == "evaluation/report.html"
    listed = (shop / "evaluation" / "mistakes.jsonl").read_text().splitlines()
    accepted = [one for one in map(json.loads, listed) if one["set"] == "screenshots"]
    assert all(one["file"].startswith("screenshots/") for one in accepted)
    assert "Worst mistakes" in (shop / "evaluation" / "report.html").read_text()


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices from as few pairs as make an interval."""
    monkeypatch.setattr("training.advise.prices._LIMITS", Limits(0.0, tolerance=1.0))


@pytest.mark.usefixtures("briefly")
def test_advice_by_id_data_alone(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance against the graph itself; 40 held-out digits in any order."""
    (printed,) = run_block(ADVICE[0], shop, monkeypatch)
    advice = read_advice(shop / "runs" / "advice" / "sorter-1" / "advice.json")
    bundle = shop / "models" / "sorter" / "1"
    config = load_config(bundle.with_suffix(".toml"))
    roles = load_roles(config.data, config.form, config.seed)
    scores = open_network(bundle / FORWARD)(roles.test_id.inputs)
    manifest = read_manifest(bundle)
    level = next(one for one in advice.levels if one.acceptance == 0.95)
    spec = manifest.detector(advice.decides)
    assert level.threshold == pytest.approx(spec.threshold)
    assert level.promised == pytest.approx(spec.acceptance_interval)
    accepted = scores[spec.output] <= spec.threshold
    assert level.accepted.value == pytest.approx(accepted.mean())
    assert {one.name for one in advice.opinions} == {one.name for one in manifest.detectors}
    assert advice.chosen_on == advice.evidence == "proxy"
    kinds = [one.set for one in advice.opinions[0].caught]
    assert {"jigsaw", "mixup", "gaussian_noise", "uniform_noise"} <= set(kinds)
    assert advice.opinion(advice.decides).detection.total == 20  # half of what 40 inputs make
    assert advice.whole_cost.ratio > 1
    names = [one.name for one in advice.opinions]
    own, energy = names.index(advice.decides), names.index("energy")
    expected = spearmanr(scores[spec.output], scores["score/energy"]).statistic
    assert advice.agreement[own][energy] == pytest.approx(expected, abs=1e-4)
    assert "100 real outliers" in printed


@pytest.mark.usefixtures("briefly")
def test_advice_by_outliers_and_production(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (printed,) = run_block(ADVICE[1], shop, monkeypatch)
    assert printed.splitlines()[-1] == "advice/advice.html"
    advice = read_advice(shop / "advice" / "advice.json")
    bundle = shop / "models" / "sorter" / "1"
    files = sorted((shop / "inbox").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file))[..., None] for file in files])
    scores = open_network(bundle / FORWARD)(pixels)
    calibration = read_calibration(bundle, read_manifest(bundle))
    for one in advice.opinions:
        assert one.seen is not None
        assert one.threshold == threshold_at(calibration[one.name], 0.9)
        flagged = scores[f"score/{one.name}"] > one.threshold
        assert one.seen.flagged.value == pytest.approx(flagged.mean())
        assert one.seen.flagged.total == 200
        assert one.seen.expected == pytest.approx(0.1)
    own = advice.opinion(advice.decides)
    assert (advice.chosen_on, advice.evidence) == ("outliers", "outliers")
    assert own.caught[0].detection.total == 30  # the half that did not choose
    assert own.seen is not None
    assert own.seen.estimate is not None
    assert own.seen.estimate_interval is not None
    low, high = own.seen.estimate_interval
    assert low < 0.2 < high  # 40 of 200 are no digits
    for words in ("production inputs", "that nothing was chosen on", "at least"):
        assert words in printed
    page = (shop / "advice" / "advice.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    with Image.open(shop / "advice" / "advice.png") as picture:
        assert picture.width > 1000


@pytest.mark.usefixtures("briefly")
def test_advice_by_captures_and_few_outliers(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captures say nothing of shares; a dozen outliers choose nothing, and all are reported."""
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    kept: dict[str, bytes] = {}
    records = []
    for file in sorted((shop / "screenshots").iterdir()):
        item = CapturedInput(
            file.read_bytes(), "image/png", "sorter", "1", "7", "combined", 9.0, 0.01
        )
        record = record_of(item, datetime.now(UTC))
        records.append(record)
        kept[record.id] = item.data
    export_captures(records, lambda record: kept[record.id], tmp_path / "review")
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted((shop / "screenshots").iterdir())[:12]:
        (few / file.name).write_bytes(file.read_bytes())
    arguments = ["advise", "models/sorter/1", "--production", str(tmp_path / "review")]
    arguments += ["--outliers", str(few), "--detectors", "energy,knn,combined"]
    result = CliRunner().invoke(training_app, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output + repr(result.exception)
    advice = read_advice(tmp_path / "out" / "advice.json")
    assert advice.production is not None
    assert advice.production.captures
    assert [one.seen.at_least for one in advice.opinions if one.seen] == [0.0] * 3
    assert (advice.chosen_on, advice.evidence, advice.outliers) == ("proxy", "outliers", 12)
    pixels = np.stack([np.asarray(Image.open(file))[..., None] for file in sorted(few.iterdir())])
    scores = open_network(shop / "models" / "sorter" / "1" / FORWARD)(pixels)
    for one in advice.opinions:
        caught = scores[f"score/{one.name}"] > one.threshold
        assert one.detection.value == pytest.approx(caught.mean())
        assert one.detection.total == 12
    assert "too few to choose a detector by" in result.output
    assert "captures" in result.output


@pytest.mark.usefixtures("briefly")
def test_advice_on_texts(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(shop)
    lines = [{"note": f"zzz qqq {index} xxx"} for index in range(8)]
    (tmp_path / "notes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ["advise", "models/intents/1", "--outliers", str(tmp_path / "notes.jsonl")]
    arguments += ["--column", "note", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(training_app, arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    advice = read_advice(tmp_path / "out" / "advice.json")
    sets = [one.set for one in advice.opinions[0].caught]
    assert sets == ["outliers", "splice", "shuffle", "word_soup", "scramble", "noise_words"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--id", "nowhere"], "nowhere: there is no such folder or file"),
        (["--detectors", "energie"], "has no energie; it has msp"),
        (["--id-acceptance", "0.999"], "at least 999 are needed"),
        (["--out", "models/sorter/1/advice"], "inside the bundle"),
        (["--outliers", "one"], "holds 1 outlier, which says nothing"),
        (["--id", "few"], "at least 19 are needed to say anything of acceptance"),
    ],
)
def test_advice_that_cannot_be_given_is_refused(
    shop: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    for name, count in (("one", 1), ("few", 5)):
        if not (shop / name).exists():
            write_screenshots(shop / name, count)
    result = CliRunner().invoke(training_app, ["advise", "models/sorter/1", *options])
    assert result.exit_code == 1
    assert said in str(result.exception)


def test_the_table_of_needs_names_every_detector_that_estimates() -> None:
    (table,) = re.findall(r"\| detectors \| at least.*?\n\n", PAGE, re.DOTALL)
    named = set(re.findall(r"[a-z_]+", table)) & set(DETECTORS | GRAPH_DETECTORS)
    assert set(NEEDS) - named <= {"mahalanobis_perturbed", "mahalanobis_star"}
