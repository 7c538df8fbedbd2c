"""docs/captures.md says what the service does: settings, outcomes, the hook that it shows."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from service.captures import OUTCOMES, CapturedInput
from service.captures.redaction import redacted
from service.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "captures.md").read_text()
TEXT = CapturedInput(
    b"card 4111222233334444 blocked", "text/plain", "words", "1", "card", "combined", 2.0, 0.01
)


def test_every_setting_stands_there_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(OODSCORE_CAPTURE_\w+)` \| ([^|]*) \|", PAGE, re.M))
    fields = {
        f"OODSCORE_{name.upper()}": field.default
        for name, field in Settings.model_fields.items()
        if name.startswith("capture_")
    }
    assert rows.keys() == fields.keys()
    for name, default in fields.items():
        if default is None:
            assert rows[name].startswith("none")
        elif isinstance(default, ByteSize):
            assert rows[name] == f"`{default.human_readable().replace('.0', '')}`"
        else:
            assert rows[name] == f"`{default:g}`"


def test_every_outcome_is_explained() -> None:
    (row,) = (line for line in PAGE.splitlines() if "oodscore_captures_total" in line)
    assert {word for word in re.findall(r"`(\w+)`", row)} == set(OUTCOMES)


def test_the_hook_of_the_page_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module: dict[str, Any] = {}
    exec(code, module)  # noqa: S102
    hook = module["without_numbers"]
    assert redacted(TEXT, hook) == replace(TEXT, data=b"card # blocked")
    assert redacted(replace(TEXT, media_type="image/png"), hook) is None
