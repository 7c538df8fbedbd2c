"""API keys: made, stored as hashes, read back from the settings.

A key is 256 random bits, so its SHA-256 is all that has to be kept of it: nobody can try 2^256
keys, and a slow or salted hash would add nothing but milliseconds to every request.  (Passwords
need those, because people choose them from a dictionary.)  Keys are therefore only made here,
never chosen.

One entry is `NAME:SCOPES:SHA256`, scopes joined by `+`: `mobile-app:score:9f86d0...`.
"""

import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

Scope = Literal["score", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_BY_NAME: dict[str, Scope] = {scope: scope for scope in SCOPES}

_PREFIX = "oodscore_"
_SECRET_BYTES = 32
_LARGEST_FILE_BYTES = 1024 * 1024
# too short for a secret, so that one put here by mistake is refused and never told
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ApiKey:
    """What the service knows of a key: enough to recognise it, too little to use it."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes = field(repr=False)  # SHA-256 of the secret (32,)


def new_secret() -> str:
    """A key to hand to a caller; shown once, stored nowhere."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def digest_of(secret: bytes) -> bytes:
    return sha256(secret).digest()


def entry_of(name: str, scopes: str, secret: str) -> str:
    """The line of the settings that lets `secret` in.  Raises ValueError."""
    entry = f"{name}:{scopes}:{digest_of(secret.encode()).hex()}"
    parse_entries([entry])
    return entry


def read_key_file(path: Path) -> tuple[ApiKey, ...]:
    """Raises ValueError, which names the file and repeats nothing of it."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
        if len(content) > _LARGEST_FILE_BYTES:
            raise ValueError(f"is larger than {_LARGEST_FILE_BYTES} bytes")
        return parse_key_file(content.decode())
    except UnicodeDecodeError:
        raise ValueError(f"key file {path}: is no UTF-8") from None
    except OSError as exc:
        raise ValueError(f"key file {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ValueError(f"key file {path}: {exc}") from exc


def parse_key_file(text: str) -> tuple[ApiKey, ...]:
    """One entry a line; blank lines and lines that begin with # are skipped.

    Raises ValueError, which never repeats what stands in the text; also where it holds no key:
    a file that came out empty must not open the service.
    """
    lines = [line.strip() for line in text.splitlines()]
    return parse_entries([line for line in lines if line and not line.startswith("#")])


def parse_entries(entries: list[str]) -> tuple[ApiKey, ...]:
    """Raises ValueError: no entry, a malformed one, a name or a key given twice."""
    if not entries:
        raise ValueError("holds no key; leave the setting out to let everybody score")
    return check_distinct(
        tuple(_parse(entry, number) for number, entry in enumerate(entries, start=1))
    )


def check_distinct(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    """Raises ValueError: a name or a key given twice."""
    for what, values in (
        ("name", [key.name for key in keys]),
        ("key", [key.digest.hex() for key in keys]),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"two entries have the same {what}")
    return keys


def _parse(entry: str, number: int) -> ApiKey:
    parts = entry.split(":")
    if len(parts) != 3:
        raise ValueError(f"entry {number} is not NAME:SCOPES:SHA256; see oodscore keys new --help")
    name, scopes, digest = parts
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"entry {number}: a name has at most 32 small letters, digits, - and _, and begins "
            "with a letter or a digit"
        )
    named = scopes.split("+")
    if not set(named) <= set(SCOPES):
        raise ValueError(f"entry {number} ({name}): scopes are {', '.join(SCOPES)}, joined by +")
    if not _DIGEST.fullmatch(digest):
        raise ValueError(
            f"entry {number} ({name}): the third part is the SHA-256 of the key, 64 hexadecimal "
            "digits in small letters; oodscore keys new prints it"
        )
    return ApiKey(name, frozenset(_BY_NAME[scope] for scope in named), bytes.fromhex(digest))
