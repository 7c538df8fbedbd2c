"""What a call to the service can end in.

ClientError
  ServiceUnreachable   no connection, or it broke, also when tried again
  NoAnswerInTime       the time for the request passed
  ServiceRefused       a problem document; branch on `code`
"""


class ClientError(Exception):
    """The service gave no usable answer."""


class ServiceUnreachable(ClientError):
    """No connection, or it broke."""


class NoAnswerInTime(ClientError):
    """Nothing, or not all of it, came within the time for one request and its retries."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(f"{url}: no answer within {seconds:g} s")


class ServiceRefused(ClientError):
    """The service answered with a problem document; branch on `code`.

    `retry_after_seconds` is what the service asked to wait, None where it did not say.
    """

    def __init__(
        self, status: int, code: str, detail: str, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail = status, code, detail
        self.retry_after_seconds = retry_after_seconds
