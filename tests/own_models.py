"""Classifiers made outside of this project, in plain torch, and data for them."""

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_text_bundle import INTENTS, id_texts
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from toy import digits

MEAN, STD = 0.3, 0.35


class Sorter(nn.Module):
    """Digits of 28 x 28 grey pixels -> ten logits."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(inplace=True))
        self.down = nn.MaxPool2d(2)
        self.body = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(inplace=True)
        )
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(2 * width * 49, 24), nn.ReLU())
        self.answer = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.hidden(self.body(self.down(self.stem(images)))))


def trained_sorter() -> Sorter:
    """A few passes over a thousand digits."""
    torch.manual_seed(0)
    network = Sorter()
    pixels, labels = digits()
    images = torch.from_numpy(pixels[:1000]).permute(0, 3, 1, 2).float()
    images = (images / 255 - MEAN) / STD
    targets = torch.from_numpy(labels[:1000])
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(4):
        for part in torch.randperm(1000).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[part]), targets[part]).backward()
            optimiser.step()
    return network.eval()


def write_photos(folder: Path, start: int = 1000, count: int = 400) -> None:
    """Digits as PNG files in a sub-folder for each class."""
    pixels, labels = digits()
    for index in range(start, start + count):
        home = folder / str(labels[index])
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index, :, :, 0]).save(home / f"{index}.png")


def write_screenshots(folder: Path, count: int = 60) -> None:
    """Stripes as PNG files: no digits."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    for index in range(count):
        wide = np.arange(28) // rng.integers(1, 6) % 2 * rng.integers(120, 256)
        pixels = np.tile(wide.astype(np.uint8), (28, 1))
        Image.fromarray(pixels.T if index % 2 else pixels).save(folder / f"{index:03}.png")


def write_list(folder: Path, to: Path) -> None:
    """The same photos as a table of paths and labels."""
    with to.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "digit"])
        for file in sorted(folder.rglob("*.png")):
            table.writerow([file.relative_to(to.parent), file.parent.name])


def write_weights(network: nn.Module, to: Path) -> None:
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, to)


class Pairs:
    """A Dataset: grey images as arrays, and labels."""

    classes = tuple(map(str, range(10)))

    def __init__(self, count: int = 300) -> None:
        pixels, labels = digits()
        self.pixels = pixels[1000 : 1000 + count]
        self.targets = labels[1000 : 1000 + count].tolist()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.pixels[index], self.targets[index]


def write_onnx(
    network: nn.Module, to: Path, *, softmax: bool = False, opset: int | None = None
) -> None:
    """The network as an ONNX graph of its own, as another tool would leave it; by default, as
    torch.onnx.export does: its newest opset, weights in a file beside it."""
    whole = nn.Sequential(network, nn.Softmax(1)) if softmax else network
    shapes = {0: torch.export.Dim("batch", min=1)}
    _write_graph(whole, {"x": torch.zeros(3, 1, 28, 28)}, shapes, to, opset)


def write_text_onnx(network: nn.Module, inputs: Sequence[str], to: Path) -> None:
    """The same of a network of token ids and whatever else of their shape it reads."""
    shapes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1)}
    # not one tensor several times, which an exporter takes for one input
    examples = {name: torch.ones(3, 7, dtype=torch.int64) for name in inputs}
    _write_graph(network, examples, shapes, to)


def _write_graph(
    network: nn.Module,
    inputs: dict[str, Tensor],
    shapes: dict[int, Any],
    to: Path,
    opset: int | None = None,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=(shapes,) * len(inputs),
            input_names=list(inputs),
            output_names=["y"],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    program.save(str(to), external_data=opset is None)


def write_exported(network: nn.Module, to: Path) -> None:
    """By torch.export where the name ends in .pt2, otherwise as TorchScript."""
    example = torch.zeros(3, 1, 28, 28)
    if to.suffix == ".pt2":
        dynamic = ({0: torch.export.Dim("batch", min=1)},)
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes=dynamic), to)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which class says "deprecated" varies by release
        torch.jit.trace(network, example).save(to)


def questions() -> tuple[list[str], list[int], list[str]]:
    """Texts, the intent of each, and the words they are made of."""
    known: dict[str, int] = {}
    for index, text in enumerate(id_texts(600, 1)):
        known.setdefault(text, index % 3)
    words = sorted({word for text in known for word in text.lower().split()})
    return list(known), list(known.values()), words


def write_questions(folder: Path) -> None:
    """questions.jsonl."""
    rows = zip(*questions()[:2], strict=True)
    lines = [json.dumps({"text": text, "label": INTENTS[answer]}) for text, answer in rows]
    (folder / "questions.jsonl").write_text("\n".join(lines))


def write_intents(folder: Path) -> None:
    """A tiny Hugging Face classifier of three intents, trained, in `folder`/intents, and
    `folder`/questions.jsonl."""
    import transformers

    texts, answers, words = questions()
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        id2label=dict(enumerate(INTENTS)),
        label2id={name: i for i, name in enumerate(INTENTS)},
    )
    network = transformers.BertForSequenceClassification(config)
    ids = [torch.tensor(tokenizer.encode(text).ids[:30]) for text in texts]
    tokens = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    targets = torch.tensor(answers)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(3):
        for part in torch.randperm(len(texts)).split(32):
            optimiser.zero_grad()
            given = network(input_ids=tokens[part], attention_mask=(tokens[part] != 0).long())
            nn.functional.cross_entropy(given.logits, targets[part]).backward()
            optimiser.step()
    network.eval().save_pretrained(folder / "intents")
    tokenizer.save(str(folder / "intents" / "tokenizer.json"))
    write_questions(folder)


def write_intents_onnx(folder: Path) -> None:
    """The classifier of `write_intents` as an export of it leaves it, in `folder`/intents-onnx."""
    import transformers

    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "intents")
    inputs = ("input_ids", "attention_mask", "token_type_ids")

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
            given = zip(inputs, (ids, mask, kinds), strict=True)
            return self.network(**dict(given)).logits

    exported = folder / "intents-onnx"
    exported.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (exported / file).write_bytes((folder / "intents" / file).read_bytes())
    write_text_onnx(Logits(), inputs, exported / "model.onnx")


class Questions(nn.Module):
    """Token ids and their mask -> three logits; every block reads the mean of the text.

    There are 20 positions.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 16)
        self.places = nn.Embedding(20, 16)
        self.blocks = nn.ModuleList(nn.Linear(32, 16) for _ in range(4))
        self.answer = nn.Linear(16, 3)

    def states(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Behind every block (N, L, 16)."""
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        found: list[Tensor] = []
        for block in self.blocks:
            around = mean_of_text(x, mask)[:, None].expand(-1, ids.shape[1], -1)
            x = x + torch.tanh(block(torch.cat([x, around], dim=2)))
            found.append(x)
        return found

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        return mean_of_text(self.states(ids, mask)[-1], mask)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.answer(self.features(ids, mask))


def mean_of_text(states: Tensor, mask: Tensor) -> Tensor:
    """(N, L, D) -> (N, D) over the ones of mask (N, L)."""
    weights = mask[:, :, None].float()
    return (states * weights).sum(1) / weights.sum(1)


def question_tokenizer() -> Tokenizer:
    """Frames every text; padding is id 1, which its own file says."""
    vocabulary = ["<unk>", "<pad>", "<s>", "</s>", *questions()[2]]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<unk>", "<pad>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    made.enable_padding(pad_id=1, pad_token="<pad>")  # noqa: S106
    return made


def trained_questions(tokenizer: Tokenizer) -> Questions:
    texts, answers, _ = questions()
    encoded = tokenizer.encode_batch(texts)
    ids = torch.tensor([each.ids for each in encoded])
    mask = torch.tensor([each.attention_mask for each in encoded])
    targets = torch.tensor(answers)
    torch.manual_seed(0)
    network = Questions(tokenizer.get_vocab_size())
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(4):
        for part in torch.randperm(len(texts)).split(32):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(ids[part], mask[part]), targets[part])
            loss.backward()
            optimiser.step()
    return network.eval()


def softmax_behind() -> nn.Sequential:
    """Not usable: what it gives is not what its linear layer gives."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1))


WAVES = ("across", "both", "down")


def waves(count: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Colour images of stripes across, both ways and down, uint8 (N, H, W, 3), and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(WAVES)
    place = np.arange(side)
    images = np.empty((count, side, side, 3))
    for index, label in enumerate(labels):
        first, second = (np.sin(place / rng.uniform(1.5, 2.5) + rng.uniform(0, 6)) for _ in "ab")
        shade = (label != 0) * first[None, :] + (label != 2) * second[:, None]
        images[index] = 128 + 50 * shade[:, :, None] + rng.normal(0, 8, (side, side, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def write_waves(folder: Path, count: int, side: int) -> None:
    """The images as PNG files in a sub-folder for each class."""
    images, labels = waves(count, side, seed=1)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        home = folder / WAVES[label]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(home / f"{index}.png")


@torch.no_grad()
def teach_head(
    network: nn.Module, head: str, side: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """Of a random network: averages of its batch norms, and the linear layer `head` by least
    squares, on 180 waves."""
    pixels, labels = waves(180, side)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = 1.0
    network.train()(images)
    layer = network.eval().get_submodule(head)
    assert isinstance(layer, nn.Linear)
    read: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    network(images)
    handle.remove()
    middle, spread = read[0].mean(0), read[0].std(0).clamp(min=1e-6)
    features = ((read[0] - middle) / spread).double()
    targets = nn.functional.one_hot(torch.from_numpy(labels)).double() * 10
    ridge = features.T @ features + 3 * torch.eye(features.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(ridge, features.T @ (targets - targets.mean(0))).T.float() / spread
    layer.weight.copy_(weight)
    layer.bias.copy_(targets.mean(0).float() - weight @ middle)
    return network


class Palette(nn.Module):
    """The nearest of a thousand colours; pixels from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.answer = nn.Linear(8, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.pool(self.stem(images)))


def shades() -> np.ndarray:
    """A thousand colours (1000, 3), from 0.05 to 0.95."""
    steps = np.arange(10) / 10 + 0.05
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)


@torch.no_grad()
def palette() -> Palette:
    """The first three features are the mean colour; the others mix it, with edges in it."""
    torch.manual_seed(0)
    network = Palette()
    stem = network.stem[0]
    assert isinstance(stem, nn.Conv2d)
    assert stem.bias is not None
    stem.bias.zero_()
    stem.weight[:3] = torch.eye(3)[:, :, None, None] / 16
    colours = torch.from_numpy(shades()).float()
    network.answer.weight.zero_()
    network.answer.weight[:, :3] = 400 * colours
    network.answer.bias.copy_(-200 * colours.square().sum(1))
    return network.eval()


class Colours:
    """A Dataset of noisy images of one colour each, `each` of every class, made when asked for."""

    classes = tuple(f"{index:03}" for index in range(1000))

    def __init__(self, each: int = 3, side: int = 16, seed: int = 0) -> None:
        self.targets = [index % 1000 for index in range(1000 * each)]
        self.side = side
        self.seed = seed

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng((self.seed, index))
        label = self.targets[index]
        colour = shades()[label] + rng.normal(0, 0.01, 3)
        shape = (self.side, self.side, 3)
        noise = rng.integers(-12, 13, shape, dtype=np.int16)
        return np.clip(np.rint(colour * 255) + noise, 0, 255).astype(np.uint8), label


class HeldOutColours(Colours):
    def __init__(self) -> None:
        super().__init__(1, seed=1)


class LargeColours(Colours):
    def __init__(self) -> None:
        super().__init__(side=224)


class LargeHeldOutColours(Colours):
    def __init__(self) -> None:
        super().__init__(1, 224, seed=1)
