"""docs/serving.md says what the results and the settings are."""

import importlib.util
import re
import shlex

import pytest

from benchmarks.service_tables import PAGE, filled
from service.metrics import RELEASE_REASONS
from service.settings import Settings

TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]


def test_the_tables_are_those_of_the_results() -> None:
    assert filled(TEXT) == TEXT, "run python -m benchmarks.service_tables"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_what_exists(command: str) -> None:
    executable, flag, module, *_ = shlex.split(command)
    assert (executable, flag) == (".venv/bin/python", "-m")
    assert importlib.util.find_spec(module) is not None


def test_settings_and_reasons_are_real() -> None:
    for name in re.findall(r"`OODSCORE_([A-Z_]+)`", TEXT):
        assert name.lower() in Settings.model_fields
    for reason in RELEASE_REASONS:
        assert f"`{reason}`" in TEXT
