"""LitServe: batches of 16 after 5 ms at most."""

import base64
import os

import litserve
from scoring import BundleScorer


class Api(litserve.LitAPI):
    def setup(self, device):
        self.scorer = BundleScorer()

    def decode_request(self, request):
        return self.scorer.decode(base64.b64decode(request["input"]))

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        return self.scorer.score(inputs)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.005, api_path="/score")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        generate_client_file=False,
        log_level="error",
    )
