"""multipart/form-data in memory: the parts of a body already bounded in size."""

from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.errors import MalformedRequest, TooManyInputs


@dataclass
class Part:
    name: str = ""
    data: bytearray = field(default_factory=bytearray)


def parse_multipart(content_type: str, body: bytes, max_parts: int) -> list[Part]:
    """Parts in order.  Raises MalformedRequest, TooManyInputs."""
    _, options = parse_options_header(content_type)
    if not (boundary := options.get(b"boundary")):
        raise MalformedRequest("multipart/form-data needs a boundary in its content type")
    collector = _Collector(max_parts)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin,
                "on_header_begin": collector.header_begin,
                "on_header_field": collector.header_field,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_headers_finished": collector.headers_finished,
                "on_part_data": collector.data,
                "on_end": collector.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise MalformedRequest(f"the multipart body cannot be parsed: {exc}") from exc
    if not collector.complete:
        raise MalformedRequest("the multipart body ends before its closing boundary")
    return collector.parts


class _Collector:
    def __init__(self, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.complete = False
        self._max_parts = max_parts
        self._disposition = b""
        self._field = b""
        self._value = b""

    def begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise TooManyInputs(self._max_parts + 1, self._max_parts)
        self.parts.append(Part())
        self._disposition = b""

    def header_begin(self) -> None:
        self._field, self._value = b"", b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self.parts[-1].name = options.get(b"name", b"").decode("utf-8", "replace")

    def data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += data[start:end]

    def end(self) -> None:
        self.complete = True
