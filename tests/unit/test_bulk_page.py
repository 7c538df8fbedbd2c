"""docs/bulk.md: its commands are understood, its words are those of the code."""

import re
import shlex
from pathlib import Path

import typer

from service.bulk import scores_schema
from service.bulk.partitions import _KINDS
from service.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bulk.md").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_commands_name_options_that_exist() -> None:
    command = typer.main.get_command(app)
    known = {name for option in command.commands["score"].params for name in option.opts}
    assert len(commands()) == 5
    for program, verb, *words in commands():
        assert (program, verb) == ("oodscore", "score")
        assert {word for word in words if word.startswith("--")} <= known


def test_the_columns_are_those_of_the_table() -> None:
    table = PAGE[PAGE.index("## The table") : PAGE.index("## Stopped")]
    named = re.findall(r"`([a-z_<>]+)`", table[: table.index("What cannot")])
    columns = [name.replace("energy", "<detector>") for name in scores_schema(["energy"]).names]
    assert [name for name in named if not name.endswith("_unreadable")] == columns


def test_every_suffix_is_listed() -> None:
    for suffix in set(_KINDS) - {".pq", ".ndjson"}:
        assert suffix in PAGE
