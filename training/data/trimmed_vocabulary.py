"""A part of a WordPiece vocabulary: an encoder's word embeddings are half of a small one.

What is left out is spelled with shorter pieces; no text becomes unreadable by it.
"""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from training.data.input_set import DataError

_UNUSED = "[unused"  # BERT's vocabularies keep such places free


def trim_vocabulary(tokenizer: Tokenizer, texts: Sequence[str], largest: int) -> Tokenizer:
    """At most `largest` pieces, in their old order: special tokens, single characters, every
    piece that `texts` (of train-ID) are made of, and the pieces of the lowest ids, which in
    vocabularies ordered by frequency are the commonest.

    DataError where the model is no WordPiece or the first three are more than `largest`.
    """
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    content: dict[str, Any] = json.loads(whole.to_str())
    model = content["model"]
    if model["type"] != "WordPiece":
        raise DataError(
            f"text.tokenizer: largest_vocabulary trims WordPiece vocabularies; this is a "
            f"{model['type']}: leave it out"
        )
    vocabulary: dict[str, int] = model["vocab"]
    prefix: str = model["continuing_subword_prefix"]
    needed = {token["content"] for token in content["added_tokens"]} | {model["unk_token"]}
    needed |= {piece for piece in vocabulary if len(piece.removeprefix(prefix)) == 1}
    for encoding in whole.encode_batch(list(texts)):
        needed.update(encoding.tokens)
    if len(needed) > largest:
        raise DataError(
            f"text.tokenizer: special tokens, characters and the pieces of train-ID are "
            f"{len(needed)}; largest_vocabulary is {largest}"
        )
    ordered = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    common = [p for p in ordered if p not in needed and not p.startswith(_UNUSED)]
    kept = needed | set(common[: largest - len(needed)])
    # added tokens that the model does not know itself follow it, as they did
    added = [t["content"] for t in content["added_tokens"] if t["content"] not in vocabulary]
    within = [piece for piece in ordered if piece in kept]
    places = {piece: place for place, piece in enumerate([*within, *added])}
    model["vocab"] = {piece: places[piece] for piece in within}
    for token in content["added_tokens"]:
        token["id"] = places[token["content"]]
    _renumber(content["post_processor"], places)
    return Tokenizer.from_str(json.dumps(content))


def _renumber(part: Any, places: dict[str, int]) -> None:
    """The ids that a post-processor writes beside the tokens it adds."""
    if not isinstance(part, dict):
        return
    for processor in part.get("processors", ()):
        _renumber(processor, places)
    for end in ("sep", "cls"):  # BertProcessing: [token, id]
        if end in part:
            part[end][1] = places[part[end][0]]
    special = part.get("special_tokens", {})  # TemplateProcessing
    for entry in special.values():
        entry["ids"] = [places[token] for token in entry["tokens"]]
