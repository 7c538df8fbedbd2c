"""BentoML: its adaptive batching, batches of 16."""

import base64
import sys
from pathlib import Path
from typing import Any

import bentoml

sys.path.insert(0, str(Path(__file__).parent))


@bentoml.service(traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Scoring:
    def __init__(self) -> None:
        from scoring import BundleScorer

        self.scorer = BundleScorer()

    @bentoml.api(route="/score", batchable=True, max_batch_size=16, max_latency_ms=60_000)
    def score(self, inputs: list[str]) -> list[dict[str, Any]]:
        rows = [self.scorer.decode(base64.b64decode(item)) for item in inputs]
        return self.scorer.score(rows)
