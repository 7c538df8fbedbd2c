"""Where `oodscore score` has its inputs scored: by a bundle in this process, or by a service."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.admission import PixelBudget
from service.arrays import parse_npy
from service.batches import BatchLimits
from service.bundle import Modality
from service.cli.models import choose_bundle, default_model
from service.client import ScoreClient
from service.decision import Plan, make_plan
from service.decoding import ImageLimits
from service.graphs import SessionOptions
from service.inputs import EncodedImage, Input, PixelImage, text_input
from service.loading import LoadedBundle, open_bundle
from service.responses import to_response
from service.schemas import ScoreParameters, ScoreResponse
from service.scoring import Deadline, Scorer
from service.settings import Settings

_NO_DEADLINE = Deadline(float("inf"), float("inf"))


@dataclass(frozen=True)
class Backend:
    """Where scoring happens."""

    images: Callable[[Sequence[bytes]], ScoreResponse]  # encoded
    npy: Callable[[bytes], ScoreResponse]
    texts: Callable[[Sequence[str]], ScoreResponse]


def local_backend(
    parameters: ScoreParameters, models_dir: Path | None, modalities: Collection[Modality]
) -> Backend:
    """The bundles these modalities need are opened now: what cannot be served is told once."""
    settings = Settings()
    budget = PixelBudget(settings.max_decoded_pixels)
    batches = BatchLimits(
        settings.inference_batch, settings.on_demand_batch, settings.inference_tokens
    )
    scorer = Scorer(ImageLimits(settings.max_image_bytes, settings.max_pixels), budget, batches)
    opened: dict[str, tuple[LoadedBundle, Plan]] = {}
    names: dict[Modality, str] = {}
    for modality in modalities:
        name = names[modality] = parameters.model or default_model(models_dir, modality)
        if name not in opened:
            opened[name] = _open(name, parameters, models_dir, settings)

    def score_inputs(modality: Modality, inputs: Sequence[Input]) -> ScoreResponse:
        bundle, plan = opened[names[modality]]
        return to_response(bundle, scorer.score(bundle, inputs, plan, _NO_DEADLINE).answers)

    def score_npy(body: bytes) -> ScoreResponse:
        rows = parse_npy(body, max_inputs=len(body), max_pixels=settings.max_pixels)
        return score_inputs("image", [PixelImage(row) for row in rows])

    def score_texts(texts: Sequence[str]) -> ScoreResponse:
        limit = settings.max_text_characters
        return score_inputs("text", [text_input(text, limit) for text in texts])

    return Backend(
        lambda images: score_inputs("image", [EncodedImage(data) for data in images]),
        score_npy,
        score_texts,
    )


def _open(
    name: str, parameters: ScoreParameters, models_dir: Path | None, settings: Settings
) -> tuple[LoadedBundle, Plan]:
    """With every graph the plan needs.  Raises BundleError, ServiceError, ProviderUnavailable."""
    ref = choose_bundle(models_dir, name, parameters.version)
    options = SessionOptions(settings.provider, settings.threads, max_rows=1)
    bundle = open_bundle(ref, options, int8=ref.name in settings.int8_models)
    detectors = parameters.detectors
    plan = make_plan(
        bundle.manifest,
        bundle.calibration,
        None if detectors is None else [d.strip() for d in detectors.split(",")],
        parameters.id_acceptance,
        bundle.classes,
    )
    for graph in plan.graphs:
        bundle.session(graph)
    return bundle, plan


def remote_backend(client: ScoreClient, parameters: ScoreParameters) -> Backend:
    """The version that answers first answers the rest of its modality, whatever is published
    meanwhile."""
    asked: dict[Modality, ScoreParameters] = {"image": parameters, "text": parameters}

    def remember(modality: Modality, response: ScoreResponse) -> ScoreResponse:
        if response.model.name:
            asked[modality] = parameters.model_copy(
                update={"model": response.model.name, "version": response.model.version}
            )
        return response

    return Backend(
        lambda images: remember("image", client.score_images(images, asked["image"])),
        lambda body: remember("image", client.score_npy(body, asked["image"])),
        lambda texts: remember("text", client.score_texts(texts, asked["text"])),
    )
