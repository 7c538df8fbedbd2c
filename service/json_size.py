"""How much a JSON text holds, counted before it is parsed.

Thirty megabytes of `{},{},{},` are ten million objects once they are parsed, and gigabytes.
"""


def holds_at_most(text: bytes, elements: int, strings: int) -> bool:
    """Whether the JSON has at most so many elements (members of lists and objects, lists and
    objects themselves) and strings (names of members among them).

    Milliseconds for a megabyte; what is no JSON may be counted wrongly behind its first error.
    """
    if _elements(text) <= elements and text.count(b'"') <= 2 * strings:
        return True
    # what stands in strings does not count: without their escapes, every second piece between
    # quotes is one
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * strings:
        return False
    return _elements(b"".join(plain.split(b'"')[::2])) <= elements


def _elements(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
