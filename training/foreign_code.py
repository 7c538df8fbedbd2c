"""Code of the person's own, which this package calls: whatever it raises is told in one line."""

import traceback


def in_short(error: Exception) -> str:
    """The error's kind, the first line of what it says, and where it was raised."""
    said = str(error).strip().partition("\n")[0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {said} ({last.filename}, line {last.lineno})"
