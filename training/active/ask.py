"""One call of acquire: take over what was answered, score the pool, ask the next round.

The network is a published bundle's and is not trained here; what is fitted anew to the answers are
the densities and the line of training.active.labelled.
"""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import Tokenizer

from service.bundle import ImageInput, Manifest, TextEncoder, TextInput, read_manifest
from training.active.acquisition import ranks, spread_out
from training.active.labelled import Features, Knowledge, features_of
from training.active.pool import (
    Encode,
    PoolItem,
    Unreadable,
    encoded,
    image_encoder,
    read_image_pool,
    read_text_pool,
    stacked,
    text_encoder,
)
from training.active.sheet import caption, draw_sheet, write_text_sheet
from training.active.state import (
    ASK_CSV,
    OOD,
    SKIP,
    Asked,
    Round,
    State,
    items_of,
    replaced,
    take_answers,
)
from training.batches import batch_rows
from training.classifier import Classifier, example_inputs
from training.config import RunConfig, SourceConfig
from training.data import DataError, InputSet, TextLoader, load_roles
from training.data.loaders import ImageLoader, Loader
from training.data.roles import load_first
from training.progress import say, track
from training.restore import load_scorer

_ID_SAMPLE = 5000  # labelled ID inputs whose features are looked at, taken evenly
COLUMNS = (
    *("rank", "id", "input", "predicted", "answer"),
    *("acquisition", "epistemic", "id_probability", "ood_score"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Order:
    """What to ask: `count` inputs of `pool`; `id_data`: in place of the bundle's own train-ID."""

    bundle: Path
    pool: Path
    state: Path
    count: int = 20
    id_data: Path | None = None


@dataclass(frozen=True)
class Model:
    """A bundle, opened for its features."""

    manifest: Manifest
    config: RunConfig
    classifier: Classifier
    encode: Encode
    loader: ImageLoader | TextLoader

    @property
    def label(self) -> str:
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def pad_id(self) -> int | None:
        spec = self.manifest.input
        return spec.pad_id if isinstance(spec, TextInput) else None


@dataclass(frozen=True)
class _Scored:
    """A pool's inputs that can be read, and what is known of each."""

    items: list[PoolItem]
    features: Features
    unreadable: list[Unreadable]


def acquire(order: Order) -> Path:
    """Ask the next round -> its folder.

    Raises BundleError, DataError and DataUnavailable, what `load_scorer` raises, and FitError where
    the labelled ID data cannot carry a density.
    """
    if order.count < 1:
        raise ValueError(f"count is {order.count}; at least one input must be asked about")
    model = open_model(order.bundle)
    modality = model.manifest.modality
    classes = model.manifest.class_names
    state = State.of(order.state, modality)
    reserved = sorted({OOD, SKIP} & set(classes))
    if reserved:
        raise DataError(f"the model has classes named {reserved}, which mean something else here")
    if state.waiting is not None:
        state = take_answers(order.state, state, classes)
        say(_summary(state.rounds[-1]))
    answered = [asked for asked in state.answered() if asked.answer != SKIP]
    strange = sorted({str(a.answer) for a in answered} - {*classes, OOD})
    if strange:
        raise DataError(f"{order.state}: answers {strange} are no classes of {model.label}")
    if modality == "text":
        items, bad = read_text_pool(order.pool)
    else:
        items, bad = read_image_pool(order.pool, order.state)
    settled = state.settled_ids()
    waiting = [item for item in items if item.id not in settled]
    scored = _scored(model, waiting, "reading the pool")
    bad = [*bad, *scored.unreadable]
    if bad:
        say(f"{len(bad)} inputs cannot be read and are left out, e.g. {bad[0].name}: "
            f"{bad[0].reason}")  # fmt: skip
    if not scored.items:
        raise DataError(f"pool: {order.pool} holds no readable input that has not been answered")
    knowledge = _knowledge(model, order, answered)
    return _ask(order, model, state, scored, knowledge)


def open_model(folder: Path) -> Model:
    """Raises BundleError when a file is damaged, ValueError when it is no bundle of ours."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such bundle folder; expected models/<name>/<version>")
    manifest = read_manifest(folder)
    try:
        config = RunConfig.model_validate(manifest.provenance.config)
    except ValidationError as exc:
        raise ValueError(
            f"{folder}: its manifest holds no run config of this release "
            f"({exc.error_count()} fields do not fit)"
        ) from exc
    classifier = load_scorer(folder).classifier.eval()
    spec = manifest.input
    if isinstance(spec, ImageInput):
        return Model(manifest, config, classifier, image_encoder(spec), ImageLoader(spec))
    assert config.text is not None  # noqa: S101  (the config's own rule)
    path = folder / spec.tokenizer
    encode = text_encoder(TextEncoder.load(path, spec))
    loader = TextLoader(config.text, (Tokenizer.from_file(str(path)), spec))
    return Model(manifest, config, classifier, encode, loader)


def labelled_id(model: Model, order: Order) -> InputSet:
    """The ID data that the densities begin with."""
    if order.id_data is None:
        data = model.config.data.model_copy(update={"test_ood": {}, "proxy_ood": ()})
        form = model.loader if isinstance(model.loader, TextLoader) else model.loader.spec
        found: InputSet = load_roles(data, form, model.config.seed).train_id
    else:
        path = order.id_data
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        kind = {".csv": "csv", ".jsonl": "jsonl"}.get(suffix, "folder")
        source = SourceConfig.model_validate({"source": kind, "path": str(path)})
        loader = cast(Loader[Any], model.loader)
        read = load_first("id_data", (source,), loader)
        found = loader.inputs(read.in_classes_of(model.manifest.class_names))
        found = found.take(np.flatnonzero(found.labels >= 0), found.name)
    if len(found) > _ID_SAMPLE:
        kept = np.linspace(0, len(found) - 1, _ID_SAMPLE).astype(np.int64)
        found = found.take(kept, found.name)
    return found


def _knowledge(model: Model, order: Order, answered: Sequence[Asked]) -> Knowledge:
    """Densities of the labelled ID data and of every answer so far."""
    known = labelled_id(model, order)
    values = features_of(model.classifier, known)
    labels = torch.from_numpy(known.labels)
    classes = model.manifest.class_names
    of_classes = [a for a in answered if a.answer != OOD]
    if of_classes:
        more = _whole(model, items_of(order.state, of_classes))
        values = values.joined(more)
        answers = [classes.index(str(a.answer)) for a in of_classes]
        labels = torch.cat([labels, torch.tensor(answers)])
    of_ood = [a for a in answered if a.answer == OOD]
    rejected = _whole(model, items_of(order.state, of_ood)) if of_ood else None
    return Knowledge.of(model.classifier, values, labels, rejected)


def _whole(model: Model, items: list[PoolItem]) -> Features:
    """Answered inputs, from our own copies; DataError where one is not there any more."""
    scored = _scored(model, items, "reading answered inputs")
    if scored.unreadable:
        first = scored.unreadable[0]
        raise DataError(f"an answered input, {first.name}, is gone from the state: {first.reason}")
    return scored.features


@torch.no_grad()
def _scored(model: Model, items: list[PoolItem], what: str) -> _Scored:
    kept: list[PoolItem] = []
    bad: list[Unreadable] = []
    parts: list[Features] = []
    size = batch_rows(example_inputs(model.classifier.spec, 1).shape[1:])
    total = -(-len(items) // size)
    device = model.classifier.device
    for readable, rows, unreadable in track(encoded(items, model.encode, size), what, total):
        bad += unreadable
        if not readable:
            continue
        kept += readable
        outputs = model.classifier(torch.from_numpy(stacked(rows, model.pad_id)).to(device))
        parts.append(Features(outputs.features.cpu(), outputs.logits.cpu()))
    if not parts:
        return _Scored([], Features(torch.zeros(0, 1), torch.zeros(0, 1)), bad)
    return _Scored(kept, Features.of(parts), bad)


def _ask(order: Order, model: Model, state: State, scored: _Scored, knowledge: Knowledge) -> Path:
    """The next round's folder, whole, and the state that knows of it."""
    features = scored.features
    epistemic = knowledge.unnormalised(features)
    worth = knowledge.id_probability(features)
    chosen = spread_out(epistemic, worth, knowledge.points(features), order.count)
    number = len(state.rounds) + 1
    ood_score = knowledge.ood_score(features)
    acquisition = ranks(epistemic) * worth
    predicted = features.logits.argmax(1).tolist()
    names = model.manifest.class_names
    asked: list[Asked] = []
    rows: list[list[str | int]] = []
    for rank, position in enumerate(chosen.tolist(), start=1):
        item = scored.items[position]
        suffix = "" if item.path is None else item.path.suffix.lower()
        file = (
            None if item.path is None else f"round-{number:03d}/inputs/{rank:03d}-{item.id}{suffix}"
        )
        asked.append(Asked(id=item.id, name=item.name, file=file, text=item.text))
        values = (acquisition, epistemic, worth, ood_score)
        rows.append(
            [
                *(rank, item.id, _cell(item.text if file is None else file)),
                *(names[predicted[position]], ""),
                *(f"{value[position]:.6g}" for value in values),
            ]
        )
    this = Round(number=number, model=model.label, asked=tuple(asked))
    captions = [
        caption(rank, names[predicted[p]], float(worth[p]))
        for rank, p in enumerate(chosen.tolist(), start=1)
    ]
    folder = order.state / this.folder
    temporary = order.state / f".{this.folder}.tmp"
    for left_over in (temporary, folder):  # of a call that was cut off: no state knows of it
        shutil.rmtree(left_over, ignore_errors=True)
    temporary.mkdir(parents=True)
    _write_round(temporary, model, [scored.items[p] for p in chosen], this, rows, captions)
    temporary.rename(folder)
    state.model_copy(update={"rounds": (*state.rounds, this)}).write(order.state)
    expected = (
        "nothing was rejected so far, so what is OOD is not known yet"
        if knowledge.odds is None
        else f"about {worth[chosen].sum():.0f} of them should be ID"
    )
    say(f"round {number}: {len(asked)} of {len(scored.items)} inputs asked; {expected}")
    return folder


def _write_round(
    folder: Path,
    model: Model,
    items: Sequence[PoolItem],
    this: Round,
    rows: Sequence[Sequence[str | int]],
    captions: Sequence[str],
) -> None:
    if model.manifest.modality == "text":
        texts = [item.text or "" for item in items]
        flat = [line.replace("\n", "; ") for line in captions]
        write_text_sheet(folder / "sheet.html", texts, flat)
    else:
        (folder / "inputs").mkdir()
        pictures: list[NDArray[np.uint8]] = []
        for item, asked in zip(items, this.asked, strict=True):
            assert item.path is not None and asked.file is not None  # noqa: S101, PT018
            shutil.copyfile(item.path, folder / "inputs" / Path(asked.file).name)
            pictures.append(model.encode(item))
        draw_sheet(folder / "sheet.png", pictures, captions)
    with replaced(folder / ASK_CSV, newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])


def _cell(value: str | None) -> str:
    """No text of a stranger is a formula where a spreadsheet opens the table."""
    text = value or ""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _summary(last: Round) -> str:
    answers = [a.answer for a in last.asked]
    rejected, skipped = answers.count(OOD), answers.count(SKIP)
    open_ones = answers.count(None)
    labelled = len(answers) - rejected - skipped - open_ones
    line = f"round {last.number}: {labelled} labelled, {rejected} rejected as OOD"
    if skipped:
        line += f", {skipped} skipped"
    return line + (f", {open_ones} without an answer go back into the pool" if open_ones else "")
