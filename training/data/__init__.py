"""Images from files, downloads and code, cut into disjoint roles."""

from training.data.derived import proxy_outliers
from training.data.image_set import DataUnavailable, ImageSet
from training.data.readers import SOURCES
from training.data.roles import CONTROL, Roles, load_roles

__all__ = [
    "CONTROL",
    "SOURCES",
    "DataUnavailable",
    "ImageSet",
    "Roles",
    "load_roles",
    "proxy_outliers",
]
