"""A client of the service, for threads and for asyncio.

    with ScoreClient("http://127.0.0.1:8000", api_key=key) as client:
        response = client.score_images([Path("cat.png").read_bytes()])
        response = client.score_texts(["my card was declined"])
        print(response.results[0])

    async with AsyncScoreClient("http://127.0.0.1:8000") as client:
        response = await client.score_texts(texts)

Long lists are cut into requests the service takes.  429, 503 and broken connections are tried
again, never sooner than `Retry-After` says; nothing else is.
"""

from service.client.async_client import AsyncScoreClient
from service.client.errors import ClientError, NoAnswerInTime, ServiceRefused, ServiceUnreachable
from service.client.options import RequestSize, Retries
from service.client.sync_client import ScoreClient

__all__ = [
    "AsyncScoreClient",
    "ClientError",
    "NoAnswerInTime",
    "RequestSize",
    "Retries",
    "ScoreClient",
    "ServiceRefused",
    "ServiceUnreachable",
]
