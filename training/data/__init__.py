"""Images from files, downloads and code, cut into disjoint roles."""

from training.data.derived import proxy_outliers
from training.data.image_set import DataError, DataUnavailable, ImageSet
from training.data.readers import SOURCES
from training.data.roles import CONTROL, Roles, load_roles

__all__ = [
    "CONTROL",
    "SOURCES",
    "DataError",
    "DataUnavailable",
    "ImageSet",
    "Roles",
    "load_roles",
    "proxy_outliers",
]
