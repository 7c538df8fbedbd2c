"""Builds the tests' text bundle: the mean of word vectors, linear logits, three intents."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from service.bundle import (
    FORWARD,
    BundleRef,
    DecisionPolicy,
    DetectorSpec,
    Golden,
    GoldenTolerance,
    Manifest,
    Provenance,
    TextInput,
    publish,
    sha256_of,
    threshold_at,
    write_calibration,
    write_golden,
    write_manifest,
)

INTENTS = ("card", "weather", "travel")
MAX_TOKENS = 12
PASSES = "passes-mc_dropout.onnx"
TOKENIZER = "tokenizer.json"
FORWARD_DETECTORS = ("combined", "energy", "msp")
# words of one intent each, then words of none
_WORDS = (
    ("card", "pin", "limit", "credit", "block", "straße"),
    ("weather", "rain", "sunny", "degrees", "forecast", "umbrella"),
    ("flight", "ticket", "hotel", "airport", "visa", "luggage"),
)
_FILLERS = ("the", "my", "is", "what", "please", "?")
_VOCABULARY = ("[PAD]", "[UNK]", *_FILLERS, *(word for words in _WORDS for word in words))
_ACCEPTANCE = 0.95
_CALIBRATION_SIZE = 199
_WEIGHT = 6.0
_BIAS = np.array([0.1, 0.0, -0.1])


def id_texts(count: int, seed: int) -> list[str]:
    """Questions of 2 to 10 words, intents in turn, mostly of their own words."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for index in range(count):
        own = rng.choice(_WORDS[index % 3], int(rng.integers(2, 7)))
        between = rng.choice(_FILLERS, int(rng.integers(0, 4)))
        texts.append(" ".join(rng.permutation(np.concatenate([own, between])).tolist()))
    return texts


def ood_texts(count: int, seed: int) -> list[str]:
    """Questions of words the model has never seen, and of words that say nothing."""
    rng = np.random.default_rng(seed)
    unheard = ("who", "wrote", "faust", "how", "tall", "moon")
    return [
        " ".join(rng.permutation([*rng.choice(unheard, 4), *rng.choice(_FILLERS, 2)]).tolist())
        for _ in range(count)
    ]


def words_of(text: str) -> list[str]:
    """What the tokenizer should make of a text of plain letters."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())[:MAX_TOKENS]


def reference_outputs(texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The graphs' outputs by counting words, in float64."""
    counts = np.array(
        [[sum(word in own for word in words_of(text)) for own in _WORDS] for text in texts]
    )
    lengths = np.array([len(words_of(text)) for text in texts])
    logits = _WEIGHT * counts / lengths[:, None] + _BIAS
    top = logits.max(axis=1)
    energy = -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))
    msp = -1 / np.exp(logits - top[:, None]).sum(axis=1)
    cool = logits / 2
    outputs = {
        "logits": logits,
        "score/msp": msp,
        "score/energy": energy,
        "score/combined": msp + 0.5 * energy,
        "score/mc_dropout": -1 / np.exp(cool - cool.max(axis=1)[:, None]).sum(axis=1),
    }
    return {name: values.astype(np.float32) for name, values in outputs.items()}


def tokenizer() -> Tokenizer:
    made = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(_VOCABULARY)}, unk_token="[UNK]")  # noqa: S106
    )
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def text_spec() -> TextInput:
    return TextInput(
        tokenizer=TOKENIZER,
        max_tokens=MAX_TOKENS,
        vocabulary_size=len(_VOCABULARY),
        pad_id=0,
        unknown_id=1,
    )


def publish_tiny_text_bundle(
    repository: Path, name: str, version: str, *, seed: int = 0
) -> BundleRef:
    """`mc_dropout` has a graph of its own; all other detectors stand in forward.onnx."""
    folder = repository / f".tmp-{name}-{version}"
    folder.mkdir(parents=True)
    tokenizer().save(str(folder / TOKENIZER))
    write_text_graph(folder / FORWARD, forward_nodes(), forward_outputs())
    write_text_graph(
        folder / PASSES, [*_logits_nodes(), *_COOLED_NODES], {"score/mc_dropout": ("N",)}
    )
    scores = reference_outputs(id_texts(_CALIBRATION_SIZE, seed))
    detectors = (*FORWARD_DETECTORS, "mc_dropout")
    calibration = {d: np.sort(scores[f"score/{d}"]) for d in detectors}
    write_calibration(folder, calibration)
    golden = [*id_texts(6, seed + 100), *ood_texts(2, seed), "rain " * 20]
    write_golden(folder, Golden(np.array(golden), reference_outputs(golden)))
    write_manifest(folder, _manifest(folder, name, version, calibration))
    return publish(folder, repository, name)


def write_text_graph(
    path: Path,
    nodes: Sequence[object],
    outputs: dict[str, tuple[object, ...]],
    shape: tuple[object, ...] = ("N", "L"),
) -> None:
    constants = {
        "embedding": _embedding(),
        "pad": np.array(0, np.int64),
        "last": np.array([2], np.int64),
        "steps": np.array([1], np.int64),
        "weight": np.float32(_WEIGHT) * np.eye(3, dtype=np.float32),
        "bias": _BIAS.astype(np.float32),
        "axis": np.array([1], np.int64),
        "half": np.float32(0.5),
        "two": np.float32(2),
    }
    used = {name for node in nodes for name in node.input}  # type: ignore[attr-defined]
    graph = helper.make_graph(
        nodes,
        "tiny-text",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items() if n in used],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="tests"
    )
    path.write_bytes(model.SerializeToString())


def forward_nodes() -> list[object]:
    return [*_logits_nodes(), *_SCORE_NODES]


def forward_outputs() -> dict[str, tuple[object, ...]]:
    scores = {f"score/{detector}": ("N",) for detector in FORWARD_DETECTORS}
    return {"logits": ("N", 3), **scores}


def _embedding() -> NDArray[np.float32]:
    """(V, 3): a word's intent.  The pad's row is large: a mask that fails is seen."""
    rows = np.zeros((len(_VOCABULARY), 3), np.float32)
    rows[0] = 1000
    for intent, words in enumerate(_WORDS):
        for word in words:
            rows[_VOCABULARY.index(word), intent] = 1
    return rows


def _logits_nodes() -> list[object]:
    """The mean over the tokens that are no padding, and a linear layer."""
    return [
        helper.make_node("Gather", ["embedding", "tokens"], ["embedded"]),
        helper.make_node("Equal", ["tokens", "pad"], ["is_pad"]),
        helper.make_node("Not", ["is_pad"], ["valid"]),
        helper.make_node("Cast", ["valid"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        helper.make_node("Mul", ["embedded", "mask_column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "steps"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "steps"], ["length"], keepdims=1),
        helper.make_node("Div", ["sum", "length"], ["mean"]),
        helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"]),
    ]


_SCORE_NODES = [
    helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    helper.make_node("ReduceMax", ["probabilities", "axis"], ["msp"], keepdims=0),
    helper.make_node("Neg", ["msp"], ["score/msp"]),
    helper.make_node("ReduceLogSumExp", ["logits", "axis"], ["lse"], keepdims=0),
    helper.make_node("Neg", ["lse"], ["score/energy"]),
    helper.make_node("Mul", ["score/energy", "half"], ["half_energy"]),
    helper.make_node("Add", ["score/msp", "half_energy"], ["score/combined"]),
]
_COOLED_NODES = [
    helper.make_node("Div", ["logits", "two"], ["cool"]),
    helper.make_node("Softmax", ["cool"], ["probabilities"], axis=1),
    helper.make_node("ReduceMax", ["probabilities", "axis"], ["msp"], keepdims=0),
    helper.make_node("Neg", ["msp"], ["score/mc_dropout"]),
]


def _manifest(
    folder: Path, name: str, version: str, calibration: dict[str, NDArray[np.float32]]
) -> Manifest:
    return Manifest(
        schema_version=1,
        name=name,
        version=version,
        modality="text",
        description="Three intents of a few words each.",
        input=text_spec(),
        class_names=INTENTS,
        detectors=tuple(
            DetectorSpec(
                name=detector,
                output=f"score/{detector}",
                graph=PASSES if detector == "mc_dropout" else FORWARD,
                cost="multi_pass" if detector == "mc_dropout" else "logits",
                hyperparameters={},
                threshold=threshold_at(scores, _ACCEPTANCE),
                id_acceptance=_ACCEPTANCE,
                calibration_size=len(scores),
                acceptance_interval=(0.92, 0.97),
                reference="1610.02136",
            )
            for detector, scores in calibration.items()
        ),
        policy=DecisionPolicy(primary="combined"),
        golden_tolerance=GoldenTolerance(absolute=1e-4, relative=1e-4),
        files={file.name: sha256_of(file) for file in folder.iterdir()},
        provenance=Provenance(
            created=datetime(2026, 1, 1, tzinfo=UTC),
            config={},
            data={"id": "synthetic"},
            libraries={},
            seed=0,
            duration_seconds=0.1,
        ),
    )
