"""Ray Serve: its dynamic batching, batches of 16 after 5 ms at most."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=1000)
class Scoring:
    def __init__(self):
        from scoring import BundleScorer

        self.scorer = BundleScorer()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def score(self, bodies):
        return self.scorer.score([self.scorer.decode(body) for body in bodies])

    async def __call__(self, request: Request):
        return await self.score(await request.body())


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    variables = {name: os.environ[name] for name in ("BUNDLE", "THREADS")}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="error",
        runtime_env={"env_vars": {**variables, "PYTHONPATH": here}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Scoring.bind(), route_prefix="/score")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
