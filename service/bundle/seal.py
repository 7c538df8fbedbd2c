"""The manifest's own digest, so that no flipped byte in it goes unseen either.

`seal` in manifest.json is the SHA-256 of everything else in it, except name and version: those
the folder's place already says, and a copy under another version stays a good bundle.  It guards
against damage, not against a forger, who can seal again.
"""

import hashlib
import json
from typing import Any

SEAL = "seal"
_SAID_BY_THE_FOLDER = ("name", "version")


def seal_of(text: str | bytes) -> str:
    """JSON text of a manifest, sealed or not -> hexadecimal seal.

    Numbers count as they are written.  Raises ValueError when it is no JSON object or a key
    repeats.
    """
    document = parse_object(text, parse_float=str, parse_int=str)
    rest = {k: v for k, v in document.items() if k not in (SEAL, *_SAID_BY_THE_FOLDER)}
    canonical = json.dumps(rest, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def parse_object(text: str | bytes, **hooks: Any) -> dict[str, Any]:
    """JSON text -> object.  Raises ValueError, also for a key that repeats or endless nesting."""
    try:
        document = json.loads(text, object_pairs_hook=_without_repeats, **hooks)
    except RecursionError as exc:
        raise ValueError("is nested too deeply") from exc
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")
    return document  # pyright: ignore[reportUnknownVariableType]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key repeats")
    return document
