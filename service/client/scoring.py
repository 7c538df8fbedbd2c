"""Lists of inputs -> requests -> one answer, as flows."""

import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.arrays import parse_npy
from service.client.errors import ClientError, ServiceRefused
from service.client.exchange import Call, Files, Flow, Terms, exchange, parsed
from service.errors import ServiceError
from service.schemas import (
    ErrorItem,
    FailedResult,
    ModelId,
    ModelInfo,
    ModelList,
    ScoreParameters,
    ScoreResponse,
    ScoreResult,
)

_NPY = "application/x-npy"
_TOO_LARGE = 413
# what the service says of a single input, and of one among several in an entry of its own
_OF_ONE_INPUT = frozenset({413, 422})
_OF_ONE_INPUT_CODES = frozenset({"inference_failed", "score_not_finite"})
_PART_OVERHEAD = 200  # bytes of a multipart part besides its data, at most
_NO_MODEL = ModelId(name="", version="")

_Input = TypeVar("_Input")
Encode = Callable[[Sequence[_Input]], Call]


def score_images(
    images: Sequence[bytes], parameters: ScoreParameters, terms: Terms
) -> Flow[ScoreResponse]:
    def encode(group: Sequence[bytes]) -> Call:
        files: Files = [("file", ("image", image)) for image in group]
        return Call("POST", "/score", {}, files=files)

    sizes = [len(image) + _PART_OVERHEAD for image in images]
    return _score(
        list(_grouped(images, sizes, terms.size.inputs, terms)), encode, parameters, terms
    )


def score_texts(
    texts: Sequence[str], parameters: ScoreParameters, terms: Terms
) -> Flow[ScoreResponse]:
    # escaped, so that half a surrogate pair can be sent, and refused there
    items = [json.dumps({"text": text}) for text in texts]

    def encode(group: Sequence[str]) -> Call:
        body = f'{{"inputs": [{", ".join(group)}]}}'.encode()
        return Call("POST", "/score", {}, content=body, content_type="application/json")

    sizes = [len(item) + 2 for item in items]
    return _score(list(_grouped(items, sizes, terms.size.inputs, terms)), encode, parameters, terms)


def score_npy(body: bytes, parameters: ScoreParameters, terms: Terms) -> Flow[ScoreResponse]:
    """What is no array the service takes is sent as it is: the service says why."""
    try:
        rows = parse_npy(body, max_inputs=len(body), max_pixels=len(body))
    except ServiceError:
        query = parameters.model_dump(exclude_none=True)
        call = Call("POST", "/score", query, content=body, content_type=_NPY)
        reply = yield from exchange(call, terms)
        return parsed(reply, ScoreResponse, terms)
    return (yield from score_array(rows, parameters, terms))


def score_array(
    images: NDArray[np.uint8], parameters: ScoreParameters, terms: Terms
) -> Flow[ScoreResponse]:
    def encode(rows: Sequence[int]) -> Call:
        buffer = io.BytesIO()
        # a group is a run of neighbours
        np.save(buffer, images[rows[0] : rows[-1] + 1] if rows else images[:0])
        return Call("POST", "/score", {}, content=buffer.getvalue(), content_type=_NPY)

    count = len(images) if images.ndim else 0
    sizes = [images[:1].nbytes] * count
    return _score(
        list(_grouped(range(count), sizes, terms.size.array_rows, terms)), encode, parameters, terms
    )


def models(terms: Terms) -> Flow[list[ModelInfo]]:
    reply = yield from exchange(Call("GET", "/models", {}), terms)
    return parsed(reply, ModelList, terms).models


def _grouped(
    inputs: Sequence[_Input], sizes: Iterable[int], at_most: int, terms: Terms
) -> Iterator[Sequence[_Input]]:
    """Runs of neighbours; one empty run where there is no input: the service refuses it."""
    start = held = 0
    for index, size in enumerate(sizes):
        full = index - start >= at_most or held + size > terms.size.body_bytes
        if full and index > start:
            yield inputs[start:index]
            start, held = index, 0
        held += size
    yield inputs[start:]


def _score(
    groups: Sequence[Sequence[_Input]],
    encode: Encode[_Input],
    parameters: ScoreParameters,
    terms: Terms,
) -> Flow[ScoreResponse]:
    """All results, numbered in order.  The version that answered first answers all the rest."""
    several = sum(len(group) for group in groups) > 1
    waiting = deque(groups)
    model, asked = _NO_MODEL, parameters
    results: list[ScoreResult | FailedResult] = []
    while waiting:
        group = waiting.popleft()
        call = replace(encode(group), query=asked.model_dump(exclude_none=True))
        try:
            reply = yield from exchange(call, terms)
        except ServiceRefused as refused:
            if len(group) > 1 and refused.status == _TOO_LARGE:
                middle = len(group) // 2
                waiting.extendleft([group[middle:], group[:middle]])
                continue
            if len(group) > 1 or not several or not _is_of_one_input(refused):
                raise
            error = ErrorItem(code=refused.code, detail=refused.detail)
            results.append(FailedResult(index=len(results), error=error))
            continue
        answer = parsed(reply, ScoreResponse, terms)
        if len(answer.results) != len(group):
            raise ClientError(
                f"{terms.url} answers {len(answer.results)} results to {len(group)} inputs"
            )
        model = answer.model
        asked = parameters.model_copy(update={"model": model.name, "version": model.version})
        for result in answer.results:
            results.append(result.model_copy(update={"index": len(results)}))
    return ScoreResponse(model=model, results=results)


def _is_of_one_input(refused: ServiceRefused) -> bool:
    return refused.status in _OF_ONE_INPUT or refused.code in _OF_ONE_INPUT_CODES
