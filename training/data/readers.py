"""Data sources by name.  A new source is one function and one line here."""

from collections.abc import Callable

from training.data.derived import read_noise, read_noisy
from training.data.derived_texts import NoiseTexts, read_token_noise
from training.data.generated import read_generated_images, read_generated_texts
from training.data.image_set import ImageSet
from training.data.imported_dataset import read_image_dataset, read_text_dataset
from training.data.listed_images import read_image_csv, read_image_jsonl
from training.data.raw_texts import RawTexts
from training.data.sources import read_folder, read_idx, read_npz, read_torchvision
from training.data.text_sources import read_csv, read_fasta, read_jsonl, read_text_folder

SOURCES: dict[str, Callable[..., ImageSet]] = {
    "csv": read_image_csv,
    "dataset": read_image_dataset,
    "folder": read_folder,
    "generated": read_generated_images,
    "idx": read_idx,
    "jsonl": read_image_jsonl,
    "noise": read_noise,
    "noisy": read_noisy,
    "npz": read_npz,
    "torchvision": read_torchvision,
}

TEXT_SOURCES: dict[str, Callable[..., RawTexts | NoiseTexts]] = {
    "csv": read_csv,
    "dataset": read_text_dataset,
    "fasta": read_fasta,
    "folder": read_text_folder,
    "generated": read_generated_texts,
    "jsonl": read_jsonl,
    "noise_tokens": read_token_noise,
}
