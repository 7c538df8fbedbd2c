"""An ONNX classifier of texts: its own graph, which then reads tokens alone, with scores behind."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from live_server import live_server
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from own_models import (
    Questions,
    mean_of_text,
    question_tokenizer,
    questions,
    trained_questions,
    trained_sorter,
    write_onnx,
    write_questions,
    write_text_onnx,
)
from scipy.special import log_softmax, logsumexp
from tiny_text_bundle import ood_texts
from typer.testing import CliRunner

from service.bundle import FORWARD, TextInput, read_manifest
from training.backbones.onnx_text_model import OnnxTextModel
from training.backbones.tapped import PENULTIMATE
from training.cli import app
from training.config import load_config
from training.data import load_roles
from training.detectors import DETECTORS
from training.export import open_network, relative_gap
from training.fitting import torch_network
from training.outputs import Outputs
from training.restore import load_scorers

PAD = 1
DETECTORS_ASKED = "msp,energy,knn,mahalanobis"


@pytest.fixture(scope="module")
def network() -> Questions:
    return trained_questions(question_tokenizer())


@pytest.fixture(scope="module")
def shop(network: Questions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """questions.onnx beside its tokenizer.json, questions.jsonl, classes.txt."""
    folder = tmp_path_factory.mktemp("shop")
    write_text_onnx(network, ("input_ids", "attention_mask"), folder / "questions.onnx")
    question_tokenizer().save(str(folder / "tokenizer.json"))
    write_questions(folder)
    (folder / "classes.txt").write_text("card\nweather\ntravel\n")
    return folder


def fit(shop: Path, *more: str, file: str = "questions.onnx", tokens: int | None = 16):
    arguments = ["fit", "--onnx", str(shop / file), "--models", str(shop / "models")]
    arguments += ["--data", str(shop / "questions.jsonl"), "--classes", str(shop / "classes.txt")]
    arguments += ["--name", "questions", *more]
    if tokens is not None:
        arguments += ["--max-tokens", str(tokens)]
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def bundle(shop: Path) -> Path:
    result = fit(shop, "--detectors", DETECTORS_ASKED)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return Path(result.stdout.splitlines()[-1])


def texts() -> list[str]:
    return [*questions()[0][::40], *ood_texts(6, 2), "rain"]


def encoded(rows: list[str], length: int = 16) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask as the tokenizer itself makes them."""
    tokenizer = question_tokenizer()
    tokenizer.enable_truncation(length)
    found = tokenizer.encode_batch(rows)
    return np.array([each.ids for each in found]), np.array([e.attention_mask for e in found])


def test_ends_of_blocks_are_listed_and_tapped(shop: Path, bundle: Path) -> None:
    arguments = ["--onnx", str(shop / "questions.onnx"), "--max-tokens", "16", "--list-layers"]
    listed = CliRunner().invoke(app, ["fit", *arguments]).stdout.splitlines()
    proposed = [line.split()[1] for line in listed if line.startswith("*")]
    options = read_manifest(bundle).provenance.config["backbone_options"]
    assert isinstance(options, dict)
    assert list(options["taps"].values()) == proposed  # type: ignore[union-attr]
    assert options["pooling"] == "mean"
    assert all("Add, tokens x 16" in line for line in listed if line.startswith("*"))
    assert len(proposed) == 3
    assert listed[-1].endswith("head: 16 features -> 3 classes")


def test_scores_are_made_of_what_the_given_graph_answers(shop: Path, bundle: Path) -> None:
    """Logits, msp and energy by numpy from the graph before anything was done to it."""
    ids, mask = encoded(texts())
    session = onnxruntime.InferenceSession(
        shop / "questions.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["y"], {"input_ids": ids, "attention_mask": mask})
    logits = np.asarray(logits)
    given = open_network(bundle / FORWARD)(ids)
    assert relative_gap(logits, given["logits"]) < 1e-5
    assert relative_gap(-logsumexp(logits, axis=1), given["score/energy"]) < 1e-4
    surest = log_softmax(logits, axis=1).max(axis=1)
    rest = np.log(-np.expm1(surest))
    assert np.argsort(given["score/msp"]).tolist() == np.argsort(rest).tolist()


@torch.no_grad()
def test_distances_are_those_of_the_layers(network: Questions, bundle: Path) -> None:
    """Of what the user's own network gives in torch, averaged over each text here."""
    config = load_config(bundle.with_suffix(".toml"))
    train = load_roles(config.data, config.form, config.seed).train_id

    def outputs(rows: NDArray[np.int64]) -> Outputs:
        ids = torch.from_numpy(rows)
        mask = (ids != PAD).long()
        states = network.states(ids, mask)
        taps = {f"block{number}": mean_of_text(state, mask) for number, state in enumerate(states)}
        features = taps.pop("block3")
        return Outputs(taps | {PENULTIMATE: features}, network(ids, mask), PENULTIMATE)

    ids, _ = encoded(texts())
    given = open_network(bundle / FORWARD)(ids)
    detector = DETECTORS["mahalanobis"]()
    detector.observe(outputs(train.inputs), torch.from_numpy(train.labels))
    detector.finish()
    expected = detector(outputs(ids))
    names = [n for n in given if n.startswith("score/mahalanobis") and "ensemble" not in n]
    assert len(names) == len(expected) == 4
    layers = [name for name in expected if name != "mahalanobis"]
    for name, wanted in zip(names, [*layers, "mahalanobis"], strict=True):
        assert relative_gap(expected[wanted].numpy(), given[name]) < 1e-3, name
    spec = read_manifest(bundle).detector("knn")
    bank = outputs(train.inputs).features.numpy()
    asked = outputs(ids).features.numpy()
    bank, asked = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (bank, asked))
    apart = np.sort(np.linalg.norm(asked[:, None] - bank[None], axis=2), axis=1)
    neighbour = int(spec.hyperparameters["neighbour"])  # type: ignore[arg-type]
    assert relative_gap(apart[:, neighbour - 1], given["score/knn"]) < 1e-3


def test_a_text_scores_alike_alone_and_padded_and_as_in_torch(bundle: Path) -> None:
    ids, mask = encoded(texts())
    graph = open_network(bundle / FORWARD)
    together = graph(ids)
    expected = torch_network(load_scorers(bundle).forward)(ids)
    alone = [graph(row[None, : own.sum()]) for row, own in zip(ids, mask, strict=True)]
    for name, values in together.items():
        assert relative_gap(expected[name], values) < 1e-4, name
        assert relative_gap(np.concatenate([each[name] for each in alone]), values) < 1e-3, name


def test_the_service_answers_with_a_decision(bundle: Path) -> None:
    rows = texts()
    manifest = read_manifest(bundle)
    spec = manifest.detector(manifest.policy.primary)
    scores = open_network(bundle / FORWARD)(encoded(rows)[0])[spec.output]
    with live_server(bundle.parents[1]) as server:
        body = {"model": "questions", "inputs": [{"text": text} for text in rows]}
        results = server.client.post("/score", json=body).json()["results"]
    decisions = [result["decision"] for result in results]
    assert decisions == ["OOD" if score > spec.threshold else "ID" for score in scores]
    known = len(rows) - 7
    assert decisions[:known].count("ID") > known * 0.7
    assert [r["label"] for r in results[:3]] == [
        manifest.class_names[answer] for answer in questions()[1][:120:40]
    ]


def test_there_are_no_gradients_here(shop: Path) -> None:
    result = fit(shop, "--detectors", "msp,mc_dropout", "--name", "refused")
    assert "need input gradients" in str(result.exception)
    assert not (shop / "models" / "refused").exists()


def refused(result: Any) -> str:
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


def changed(shop: Path, to: Path, change: Any) -> None:
    """questions.onnx with its graph changed, beside its tokenizer."""
    model = onnx.load(shop / "questions.onnx")
    change(model.graph)
    onnx.save(model, to / "changed.onnx")
    question_tokenizer().save(str(to / "tokenizer.json"))


def test_without_a_tokenizer_it_is_refused(shop: Path, tmp_path: Path) -> None:
    changed(shop, tmp_path, lambda graph: None)
    (tmp_path / "tokenizer.json").rename(tmp_path / "words.json")
    arguments = ["fit", "--onnx", str(tmp_path / "changed.onnx"), "--list-layers"]
    arguments += ["--max-tokens", "16"]
    said = refused(CliRunner().invoke(app, arguments))
    assert "reads token ids" in said
    assert "--tokenizer" in said
    named = CliRunner().invoke(app, [*arguments, "--tokenizer", str(tmp_path / "words.json")])
    assert named.exit_code == 0, named.output


def strange_input(graph: onnx.GraphProto) -> None:
    kind = helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["N", "L"])
    graph.input.append(kind)


def one_text(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def eight_tokens(graph: onnx.GraphProto) -> None:
    graph.input[1].type.tensor_type.shape.dim[1].dim_value = 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (strange_input, ["position_ids (int64 N x L)", "understood are token ids (input_ids"]),
        (one_text, ["input_ids takes exactly 1 texts", "dynamic first dimension"]),
        (eight_tokens, ["attention_mask takes exactly 8 tokens", "dynamic second dimension"]),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    shop: Path, tmp_path: Path, change: Any, said: list[str]
) -> None:
    changed(shop, tmp_path, change)
    arguments = ["--onnx", str(tmp_path / "changed.onnx"), "--list-layers"]
    told = refused(CliRunner().invoke(app, ["fit", *arguments]))
    for part in said:
        assert part in told


def test_a_tokenizer_of_another_vocabulary_is_refused(shop: Path, tmp_path: Path) -> None:
    other = question_tokenizer()
    other.add_tokens(["faust", "moon"])
    other.save(str(tmp_path / "tokenizer.json"))
    result = fit(shop, "--tokenizer", str(tmp_path / "tokenizer.json"))
    known = question_tokenizer().get_vocab_size()
    assert f"embeddings of {known} tokens, the tokenizer has {known + 2} ids" in refused(result)


def test_more_tokens_than_positions_are_refused(shop: Path) -> None:
    said = refused(fit(shop, tokens=None))
    assert "does not run on 2 texts of 128 tokens" in said
    assert "--max-tokens" in said


def test_flags_of_the_other_kind_are_refused(shop: Path, tmp_path: Path) -> None:
    assert "reads texts; leave --mean out" in refused(fit(shop, "--mean", "0.5"))
    write_onnx(trained_sorter(), tmp_path / "sorter.onnx")
    images = ["fit", "--onnx", str(tmp_path / "sorter.onnx"), "--mean", "0.3", "--std", "0.3"]
    result = CliRunner().invoke(app, [*images, "--max-tokens", "9", "--list-layers"])
    assert "reads images; leave --max-tokens out" in refused(result)


def bag_of_words(to: Path, *, masked: bool, vector: bool = True) -> None:
    """Ids alone -> logits of the mean of the words, `masked`: of those that are no padding; the
    first class always wins."""
    tokenizer = question_tokenizer()
    rng = np.random.default_rng(0)
    table = rng.normal(size=(tokenizer.get_vocab_size(), 6)).astype(np.float32)
    constants = {
        "table": table,
        "weight": rng.normal(size=(6, 3)).astype(np.float32),
        "bias": np.array([50, 0, 0], np.float32),
        "pad": np.array(PAD, np.int32),
        "axis": np.array([1]),
        "last": np.array([2]),
    }
    nodes = [helper.make_node("Gather", ["table", "words"], ["found"])]
    if masked:
        nodes += [
            helper.make_node("Equal", ["words", "pad"], ["pads"]),
            helper.make_node("Not", ["pads"], ["own"]),
            helper.make_node("Cast", ["own"], ["ones"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["ones", "last"], ["weights"]),
            helper.make_node("Mul", ["found", "weights"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["weights", "axis"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], ["features"]),
        ]
    elif vector:
        nodes.append(helper.make_node("ReduceMean", ["found", "axis"], ["features"], keepdims=0))
    read = "features" if vector else "found"
    nodes.append(helper.make_node("MatMul", [read, "weight"], ["product"]))
    nodes.append(helper.make_node("Add", ["product", "bias"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "bag",
        [helper.make_tensor_value_info("words", TensorProto.INT32, ["N", "L"])],
        [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ["N", 3] if vector else ["N", "L", 3]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), to)


def test_a_graph_whose_answer_depends_on_padding_is_refused(shop: Path, tmp_path: Path) -> None:
    bag_of_words(tmp_path / "bag.onnx", masked=False)
    words = str(shop / "tokenizer.json")
    said = refused(fit(shop, "--tokenizer", words, file=str(tmp_path / "bag.onnx")))
    assert "gives other logits with 8 tokens of padding" in said
    assert "attention_mask" in said
    # one that leaves padding out by itself comes further
    bag_of_words(tmp_path / "bag.onnx", masked=True)
    said = refused(fit(shop, "--tokenizer", words, file=str(tmp_path / "bag.onnx")))
    assert "the network and the data do not fit" in said
    assert "is the tokenizer that of its training" in said


def test_a_head_that_reads_every_token_is_refused(shop: Path, tmp_path: Path) -> None:
    bag_of_words(tmp_path / "bag.onnx", masked=False, vector=False)
    arguments = ["--onnx", str(tmp_path / "bag.onnx"), "--tokenizer", str(shop / "tokenizer.json")]
    said = refused(CliRunner().invoke(app, ["fit", *arguments, "--list-layers"]))
    assert "one vector a text is expected" in said


def test_ids_of_one_input_by_any_name_and_type(tmp_path: Path) -> None:
    bag_of_words(tmp_path / "bag.onnx", masked=True)
    words = question_tokenizer().get_vocab_size()
    model = OnnxTextModel(words, 3, file=str(tmp_path / "bag.onnx"), taps={"words": "found"})
    ids = torch.tensor([[4, 5, 6], [7, PAD, PAD]])
    outputs = model(ids, ids != PAD)
    table = numpy_helper.to_array(onnx.load(tmp_path / "bag.onnx").graph.initializer[0])
    expected = np.stack([table[4:7].mean(0), table[7]])
    np.testing.assert_allclose(outputs.features.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(outputs.taps["words"].numpy(), expected, rtol=1e-5)
    first = OnnxTextModel(
        words, 3, file=str(tmp_path / "bag.onnx"), taps={"words": "found"}, pooling="cls"
    )
    np.testing.assert_array_equal(first(ids, ids != PAD).taps["words"].numpy(), table[[4, 7]])


def test_what_the_manifest_says_of_the_texts(bundle: Path) -> None:
    spec = read_manifest(bundle).input
    assert isinstance(spec, TextInput)
    assert (spec.pad_id, spec.unknown_id, spec.max_tokens) == (PAD, 0, 16)
    graph = onnx.load(bundle / FORWARD, load_external_data=False).graph
    assert [value.name for value in graph.input] == ["tokens"]
