"""API keys: what is stored of them, how they are read back, what is never said."""

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.datastructures import Headers
from typer.testing import CliRunner

from service.api_keys import entry_of, new_secret, parse_entries, parse_key_file, read_key_file
from service.auth import Gate
from service.cli import app
from service.errors import KeyMissing, KeyUnknown, RateLimited
from service.key_watch import KeyWatch
from service.metrics import Metrics
from service.rate_limit import TokenBucket
from service.schemas import describe_problems
from service.settings import Settings

SECRET = "oodscore_" + "x" * 43
DIGEST = sha256(SECRET.encode()).hexdigest()
ENTRY = f"mobile:score:{DIGEST}"


def test_keys_are_made_of_256_random_bits() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert re.fullmatch(r"oodscore_[A-Za-z0-9_-]{43}", secret)  # 43 * 6 bits >= 256


def test_an_entry_holds_the_hash_and_not_the_key() -> None:
    entry = entry_of("ops", "score+admin", SECRET)
    assert entry == f"ops:score+admin:{DIGEST}"
    (key,) = parse_entries([entry])
    assert (key.name, key.scopes) == ("ops", {"score", "admin"})
    assert key.digest == bytes.fromhex(DIGEST)
    assert DIGEST not in repr(key)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("mobile:score", "NAME:SCOPES:SHA256"),
        (f"{ENTRY}:more", "NAME:SCOPES:SHA256"),
        (f"Mobile:score:{DIGEST}", "small letters"),
        (f"{'m' * 33}:score:{DIGEST}", "32"),
        (f":score:{DIGEST}", "small letters"),
        (f"mobile:root:{DIGEST}", "score, metrics, admin"),
        (f"mobile::{DIGEST}", "score, metrics, admin"),
        (f"mobile:score+:{DIGEST}", "score, metrics, admin"),
        (f"mobile:score:{SECRET}", "SHA-256"),
        (f"mobile:score:{DIGEST.upper()}", "SHA-256"),
        (f"{SECRET}:score:{DIGEST}", "32"),
    ],
)
def test_a_wrong_entry_is_refused_and_never_repeated(entry: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        parse_entries([entry])
    assert SECRET not in str(raised.value)
    assert DIGEST not in str(raised.value)


def test_names_and_keys_are_given_once() -> None:
    other = sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match="same name"):
        parse_entries([ENTRY, f"mobile:admin:{other}"])
    with pytest.raises(ValueError, match="same key"):
        parse_entries([ENTRY, f"other:admin:{DIGEST}"])


def test_key_files_may_have_comments() -> None:
    (key,) = parse_key_file(f"# who\n\n  {ENTRY}  \r\n# {SECRET}\n")
    assert key.name == "mobile"


@pytest.mark.parametrize("value", ["", " ", ","])
def test_an_empty_setting_does_not_open_the_service(value: str) -> None:
    with pytest.raises(ValidationError, match="holds no key"):
        Settings(api_keys=value)  # pyright: ignore[reportArgumentType]


def test_settings_join_variable_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    other = sha256(b"other").hexdigest()
    file.write_text(f"ops:admin:{other}\n")
    monkeypatch.setenv("OODSCORE_API_KEYS", f"{ENTRY},web:score:{sha256(b'web').hexdigest()}")
    monkeypatch.setenv("OODSCORE_API_KEYS_FILE", str(file))
    settings = Settings()
    assert [key.name for key in settings.keys] == ["mobile", "web", "ops"]
    assert DIGEST not in repr(settings)
    file.write_text(f"mobile:admin:{other}\n")
    with pytest.raises(ValidationError, match="same name"):
        Settings()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "holds no key"),
        (b"# none\n", "holds no key"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_key_file_that_holds_no_key_stops_the_start(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValidationError, match=reason) as raised:
        Settings(api_keys_file=file)
    assert str(file) in describe_problems(raised.value.errors())


def test_what_the_start_says_of_a_wrong_key_holds_no_secret() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(api_keys=f"mobile:score:{SECRET}")  # pyright: ignore[reportArgumentType]
    assert SECRET not in describe_problems(raised.value.errors())


def test_a_rate_without_keys_is_refused() -> None:
    with pytest.raises(ValidationError, match="there are none"):
        Settings(key_requests_per_second=5)


def test_the_command_prints_a_key_that_its_entry_lets_in() -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["keys", "new", "ops", "--scopes", "metrics+admin", "--json"])
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    (key,) = parse_entries([made["entry"]])
    assert (key.name, key.scopes) == ("ops", {"metrics", "admin"})
    assert key.digest == sha256(made["key"].encode()).digest()
    lines = runner.invoke(app, ["keys", "new", "web"]).stdout.splitlines()
    (key,) = parse_entries([lines[1].split()[1]])
    assert key.scopes == {"score"}
    assert key.digest == sha256(lines[0].split()[1].encode()).digest()
    assert runner.invoke(app, ["keys", "new", "No Name"]).exit_code == 2
    assert runner.invoke(app, ["keys", "new", "x", "--scopes", "root"]).exit_code == 2


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock=clock)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == pytest.approx(0.5)
    clock.now += 0.25
    assert bucket.take() == pytest.approx(0.25)  # asking cost nothing
    clock.now += 0.25
    assert bucket.take() == 0
    clock.now += 1000.0
    assert [bucket.take() > 0 for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("rate", [0.1, 0.3, 3.0, 7.0])
def test_who_waits_as_told_is_let_in(rate: float) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, 1, clock=clock)
    for _ in range(50):
        if wait := bucket.take():
            clock.now += wait
            assert bucket.take() == 0


def test_retry_after_covers_the_wait() -> None:
    assert RateLimited("k", 0.2).retry_after_seconds == 1
    assert RateLimited("k", 2.1).retry_after_seconds == 3


def test_a_changed_key_file_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    clock = Clock()
    fixed = parse_entries([ENTRY])

    def entry(name: str) -> str:
        return f"{name}:score:{sha256(name.encode()).hexdigest()}\n"

    def names(seconds: float = 2.0) -> list[str] | None:
        clock.now += seconds
        news = watch.news()
        return None if news is None else [key.name for key in news]

    path.write_text(entry("one"))
    watch = KeyWatch(path, fixed, clock=clock)
    assert names(0) == ["mobile", "one"]  # it may have changed since the settings read it
    assert names() is None
    path.write_text(entry("one") + entry("three"))
    assert names(1.9) is None  # not looked at yet
    assert names(0.1) == ["mobile", "one", "three"]
    for broken in ("", f"x:score:{SECRET}", entry("mobile")):
        path.write_text(broken)
        with caplog.at_level("ERROR"):
            assert names() is None
        assert str(path) in caplog.text
        assert SECRET not in caplog.text
        caplog.clear()
        assert names() is None
        assert caplog.text == ""  # told once
    path.unlink()
    with caplog.at_level("ERROR"):
        assert names() is None
    assert "No such file" in caplog.text
    other = tmp_path / "other"
    other.write_text(entry("five"))
    path.symlink_to(other)  # as orchestrators publish secrets
    assert names() == ["mobile", "five"]


def test_a_key_file_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match="larger"):
        read_key_file(tmp_path / "keys")


GATE = Gate(parse_entries([ENTRY]), None, Metrics(CollectorRegistry()))


@given(
    st.sampled_from([b"authorization", b"x-api-key"]),
    st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(lambda key: b"Bearer " + key)),
)
def test_whatever_bytes_a_header_holds_are_a_key_that_is_unknown(name: bytes, value: bytes) -> None:
    with pytest.raises((KeyMissing, KeyUnknown)) as refused:
        GATE.admit(Headers(raw=[(name, value)]), ("score",))
    assert len(value) < 8 or value.decode("latin-1") not in str(refused.value)


def test_the_first_header_that_holds_a_key_counts() -> None:
    key = SECRET.encode()
    for raw in (
        [(b"authorization", b"Bearer " + key), (b"x-api-key", b"wrong")],
        [(b"authorization", b"Basic d3Jvbmc="), (b"x-api-key", key)],
    ):
        assert GATE.admit(Headers(raw=raw), ("score",)).name == "mobile"
    with pytest.raises(KeyUnknown):
        GATE.admit(
            Headers(raw=[(b"authorization", b"Bearer wrong"), (b"x-api-key", key)]), ("score",)
        )
