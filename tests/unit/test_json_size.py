"""Elements and strings of JSON, counted without parsing it, against a count of what was written."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.json_size import holds_at_most

NASTY = st.text(alphabet='a,[]{}"\\\n\ud83d😀')
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | NASTY,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(NASTY, inner, max_size=6),
    max_leaves=30,
)


def count(document: Any) -> tuple[int, int]:
    """Lists, objects and the commas between their members; strings."""
    if isinstance(document, str):
        return 0, 1
    if not isinstance(document, (list, dict)):
        return 0, 0
    members = list(document) if isinstance(document, list) else list(document.values())
    inside = [count(member) for member in members]
    elements = 1 + max(0, len(members) - 1) + sum(n for n, _ in inside)
    names = len(members) if isinstance(document, dict) else 0
    return elements, names + sum(n for _, n in inside)


@given(DOCUMENTS, st.booleans())
def test_strings_hide_nothing_and_add_nothing(document: Any, ascii_alone: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_alone).encode("utf-8", "surrogatepass")
    elements, strings = count(document)
    assert holds_at_most(text, elements, strings)
    assert not holds_at_most(text, elements - 1, strings)
    assert not holds_at_most(text, elements, strings - 1)
