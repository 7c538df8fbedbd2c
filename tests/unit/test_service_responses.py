"""The text of an answer is what the serialiser would write of its document."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from service.decision import Verdict, VerdictRow
from service.errors import InferenceFailed, ScoreNotFinite
from service.responses import response_body, response_document, to_response
from service.scoring import Answer

BUNDLE: Any = SimpleNamespace(name='a "name" of 100 %', version="3")
# thresholds of 0.0 and -0.0 share a text
# some library switches subnormal numbers off in its process
finite = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32).map(
    lambda x: x + 0.0
)


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
    numbers = st.lists(finite, min_size=len(names), max_size=len(names))
    row = VerdictRow(tuple(names), tuple(draw(numbers)), draw(numbers), draw(numbers))
    label = draw(st.text(max_size=8))
    truncated = draw(st.sampled_from([None, True, False]))
    decided = draw(st.sampled_from(names))
    return Verdict(label, draw(st.integers(0, 999)), draw(finite), decided, row, truncated)


answers: st.SearchStrategy[Answer] = st.one_of(
    verdicts(), st.builds(InferenceFailed), st.builds(ScoreNotFinite, st.text(max_size=8))
)


@given(st.lists(answers, max_size=4))
@settings(deadline=None)
def test_the_text_is_that_of_the_document(given_answers: list[Answer]) -> None:
    body = response_body(BUNDLE, given_answers)
    assert body == to_json(response_document(BUNDLE, given_answers))


@pytest.mark.parametrize("truncated", [None, True])
def test_the_document_fits_the_schema(truncated: bool | None) -> None:
    row = VerdictRow(("50 %", "b"), (0.5, 0.5), [0.75, 0.5], [0.01, 0.2])
    answer = Verdict("ship", 8, 0.9, "b", row, truncated)
    body = response_body(BUNDLE, [answer, InferenceFailed()])
    response = to_response(BUNDLE, [answer, InferenceFailed()])
    assert type(response).model_validate_json(body) == response
    decided = response.model_dump()["results"][0]
    assert (decided["decision"], decided["score"], decided["p_value"]) == ("ID", 0.5, 0.2)
    assert decided["detectors"]["50 %"]["decision"] == "OOD"
