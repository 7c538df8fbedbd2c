"""MLServer: its adaptive batching, batches of 16 after 5 ms at most, in the server's process."""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel, MLServer, Settings
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceResponse, ResponseOutput


class Scoring(MLModel):
    async def load(self):
        sys.path.insert(0, str(Path(__file__).parent))
        from scoring import BundleScorer

        self.scorer = BundleScorer()
        return True

    async def predict(self, payload):
        data = payload.inputs[0].data
        items = data.root if hasattr(data, "root") else data
        items = [x.encode("latin-1") if isinstance(x, str) else bytes(x) for x in items]
        import base64

        rows = [self.scorer.decode(base64.b64decode(item)) for item in items]
        answers = self.scorer.score(rows)
        encoded = [json.dumps(answer) for answer in answers]
        output = ResponseOutput(
            name="answer", shape=[len(encoded), 1], datatype="BYTES", data=encoded
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main():
    settings = Settings(
        host="127.0.0.1",
        http_port=int(os.environ["PORT"]),
        grpc_port=int(os.environ["PORT2"]),
        metrics_port=int(os.environ["PORT3"]),
        parallel_workers=0,
        debug=False,
    )
    model = ModelSettings(
        name="scoring",
        implementation=Scoring,
        max_batch_size=16,
        max_batch_time=0.005,
        parameters=ModelParameters(uri=tempfile.gettempdir()),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
