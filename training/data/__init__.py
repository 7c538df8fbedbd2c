"""Images and texts from files, downloads and code, cut into disjoint roles."""

from training.data.derived import proxy_outliers
from training.data.given import source_of
from training.data.image_set import ImageSet
from training.data.input_set import DataError, DataUnavailable, InputSet
from training.data.loaders import CONTROL, TEXT_CONTROL, TextLoader
from training.data.readers import SOURCES
from training.data.roles import Roles, load_roles, load_test_id
from training.data.text_set import TextSet

__all__ = [
    "CONTROL",
    "SOURCES",
    "TEXT_CONTROL",
    "DataError",
    "DataUnavailable",
    "ImageSet",
    "InputSet",
    "Roles",
    "TextLoader",
    "TextSet",
    "load_roles",
    "load_test_id",
    "proxy_outliers",
    "source_of",
]
