"""A detector that fails while `fit` runs: the refusal says how to go on."""

from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from training.cli import app
from training.detectors import FitError
from training.fit import command


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("vim: the mean maximum logit is -2", "Without vim: --detectors msp,energy"),
        ("a training feature is NaN or infinite", None),
    ],
)
def test_the_refusal_names_what_to_ask_for(
    monkeypatch: pytest.MonkeyPatch, message: str, advice: str | None
) -> None:
    names = ("msp", "vim", "energy")
    config = SimpleNamespace(detectors=[SimpleNamespace(name=name) for name in names])

    def fails(*given: Any) -> None:
        raise FitError(message)

    monkeypatch.setattr(command, "network_of", lambda *given: None)
    monkeypatch.setattr(command, "FitRequest", lambda **given: None)
    monkeypatch.setattr(command, "run_config", lambda request: (config, None))
    monkeypatch.setattr(command, "run", fails)
    result = CliRunner().invoke(app, ["fit", "a:b", "--data", "photos", "--name", "sorter"])
    said = str(result.exception) if isinstance(result.exception, FitError) else result.output
    assert result.exit_code == 1
    assert message in said
    assert (advice is None and "--detectors" not in said) or (advice or "?") in said
