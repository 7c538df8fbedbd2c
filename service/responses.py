"""Answers -> wire types."""

from collections.abc import Sequence

from service.errors import ServiceError
from service.loading import LoadedBundle
from service.schemas import (
    DetectorResult,
    ErrorItem,
    FailedResult,
    ModelId,
    ScoreResponse,
    ScoreResult,
)
from service.scoring import Answer


def to_response(bundle: LoadedBundle, answers: Sequence[Answer]) -> ScoreResponse:
    return ScoreResponse(
        model=ModelId(name=bundle.name, version=bundle.version),
        results=[_result(index, answer) for index, answer in enumerate(answers)],
    )


def _result(index: int, answer: Answer) -> ScoreResult | FailedResult:
    if isinstance(answer, ServiceError):
        return FailedResult(index=index, error=ErrorItem(code=answer.code, detail=answer.detail))
    deciding = answer.deciding
    return ScoreResult(
        index=index,
        decision=deciding.decision,
        label=answer.label,
        label_index=answer.label_index,
        confidence=answer.confidence,
        score=deciding.score,
        p_value=deciding.p_value,
        detector=answer.detector,
        detectors={
            name: DetectorResult(
                score=verdict.score,
                threshold=verdict.threshold,
                p_value=verdict.p_value,
                decision=verdict.decision,
            )
            for name, verdict in answer.detectors.items()
        },
        truncated=answer.truncated,
    )
