"""What the cutting into roles asks of a modality: read a source, make inputs, controls, proxies."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.bundle import ImageInput, TextEncoder, TextInput, TextUnusable, pad_tokens
from training.config import TextConfig
from training.data.derived import proxy_outliers, reencode_jpeg
from training.data.derived_texts import NoiseTexts, rewrite, text_proxy_outliers
from training.data.image_set import ImageSet
from training.data.input_set import DataError, InputSet
from training.data.raw_texts import RawTexts
from training.data.readers import SOURCES, TEXT_SOURCES
from training.data.text_set import TextSet
from training.data.vocabulary import make_tokenizer
from training.progress import say

CONTROL = "id_reencoded"
TEXT_CONTROL = "id_rewritten"
REPORT_SEED = 0


class Part(Protocol):
    """A set as it was read."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def origin(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64], name: str) -> Self: ...

    def in_classes_of(self, class_names: tuple[str, ...]) -> Self: ...


P = TypeVar("P", bound=Part)


class Loader(Protocol[P]):
    """`read` first, `learn` from train-ID, then everything else."""

    @property
    def sources(self) -> Mapping[str, Callable[..., Any]]: ...

    @property
    def kind(self) -> str:
        """What is loaded, in the plural."""
        ...

    @property
    def remarks(self) -> list[str]:
        """For the report."""
        ...

    def read(self, name: str, source: str, arguments: dict[str, Any]) -> P:
        """As it stands there; DataUnavailable, DataError, and TypeError on a wrong argument."""
        ...

    def cleaned(self, part: P) -> P:
        """An ID set without what should not be learnt from, or counted twice."""
        ...

    def aligned(self, test: P, train: P) -> P:
        """test-ID with the labels of train; DataError where they do not fit."""
        ...

    def learn(self, train_id: P) -> ImageInput | TextInput:
        """What a classifier of these inputs reads."""
        ...

    def inputs(self, part: P) -> InputSet:
        """What the classifier reads."""
        ...

    def controls(self, test_id: P) -> dict[str, P]:
        """ID in another form, which nothing should tell from ID."""
        ...

    def proxies(self, dev_id: P, kinds: tuple[str, ...]) -> dict[str, P]:
        """Outliers made of dev-ID, for learnt weights only."""
        ...


class ImageLoader:
    """Images are of the input's size from the moment they are read."""

    sources = SOURCES
    kind = ImageSet.kind

    def __init__(self, spec: ImageInput) -> None:
        self.spec = spec
        self.remarks: list[str] = []

    def read(self, name: str, source: str, arguments: dict[str, Any]) -> ImageSet:
        return SOURCES[source](name, self.spec, **arguments)

    def cleaned(self, part: ImageSet) -> ImageSet:
        return part

    def aligned(self, test: ImageSet, train: ImageSet) -> ImageSet:
        if train.class_names != test.class_names:
            raise DataError(
                f"train has the classes {train.class_names}, test {test.class_names}: a label "
                "would mean two things"
            )
        return test

    def learn(self, train_id: ImageSet) -> ImageInput:
        return self.spec

    def inputs(self, part: ImageSet) -> ImageSet:
        return part

    def controls(self, test_id: ImageSet) -> dict[str, ImageSet]:
        return {CONTROL: reencode_jpeg(test_id)}

    def proxies(self, dev_id: ImageSet, kinds: tuple[str, ...]) -> dict[str, ImageSet]:
        return proxy_outliers(dev_id, kinds, REPORT_SEED)


class TextLoader:
    """Texts become token ids once train-ID has made the vocabulary, or a bundle brings it."""

    sources = TEXT_SOURCES
    kind = TextSet.kind

    def __init__(
        self, config: TextConfig, known: tuple[Tokenizer, TextInput] | None = None
    ) -> None:
        """`known`: the tokenizer of a bundle, whose vocabulary stays what it is."""
        self.config = config
        self.known = known
        self.remarks: list[str] = []

    def read(self, name: str, source: str, arguments: dict[str, Any]) -> RawTexts | NoiseTexts:
        return TEXT_SOURCES[source](name, **arguments)

    def cleaned(self, part: RawTexts | NoiseTexts) -> RawTexts:
        if isinstance(part, NoiseTexts):
            raise DataError(f"{part.name}: noise has no classes, so it is no ID data")
        full = part.readable()
        kept = full if self.config.duplicates == "keep" else full.once_each()
        if len(kept) < len(part):
            self._remark(
                f"{part.name}: {len(part) - len(full)} empty or unreadable and "
                f"{len(full) - len(kept)} duplicate texts of {len(part)} dropped before anything "
                "else; of duplicates the first stays."
            )
        return kept

    def aligned(self, test: RawTexts, train: RawTexts) -> RawTexts:
        return test.in_classes_of(train.class_names)

    def learn(self, train_id: RawTexts) -> TextInput:
        if self.known is None:
            self.known = make_tokenizer(self.config, train_id.texts)
        return self.known[1]

    def inputs(self, part: RawTexts | NoiseTexts) -> TextSet:
        """Texts in which the tokenizer finds no token are left out, and counted."""
        if self.known is None:
            raise ValueError("the vocabulary is made of train-ID: learn it first")
        tokenizer, spec = self.known
        if isinstance(part, NoiseTexts):
            return part.drawn(spec, tokenizer)
        encoder = TextEncoder(tokenizer, spec)
        rows: dict[int, NDArray[np.int64]] = {}
        cut = 0
        for position, text in enumerate(part.texts):
            try:
                tokens = encoder.tokens(text)
            except TextUnusable:
                continue
            rows[position] = tokens.ids
            cut += tokens.truncated
        if not rows:
            raise DataError(f"{part.name}: the tokenizer finds no token in any text")
        if len(rows) < len(part):
            self._remark(
                f"{part.name}: {len(part) - len(rows)} of {len(part)} texts left out: the "
                "tokenizer finds no token in them."
            )
        kept = part.take(np.fromiter(rows, np.int64), part.name)
        found = TextSet(
            kept.name,
            pad_tokens(list(rows.values()), spec.pad_id),
            kept.labels,
            kept.class_names,
            kept.origin,
            kept.texts,
            spec.pad_id,
        )
        unknown = (found.inputs == spec.unknown_id).sum() / found.lengths().sum()
        self._remark(
            f"{part.name}: {np.median(found.lengths()):.0f} tokens a text (median), "
            f"{cut / len(rows):.0%} of the texts cut at {spec.max_tokens} tokens, "
            f"{unknown:.1%} of the tokens unknown."
        )
        return found

    def controls(self, test_id: RawTexts) -> dict[str, RawTexts]:
        return {TEXT_CONTROL: rewrite(test_id)}

    def proxies(self, dev_id: RawTexts, kinds: tuple[str, ...]) -> dict[str, RawTexts]:
        return text_proxy_outliers(dev_id, kinds, REPORT_SEED)

    def _remark(self, line: str) -> None:
        say(line)
        self.remarks.append(line)


def loader_of(form: ImageInput | TextConfig) -> ImageLoader | TextLoader:
    """The loader of what a config describes."""
    return TextLoader(form) if isinstance(form, TextConfig) else ImageLoader(form)
