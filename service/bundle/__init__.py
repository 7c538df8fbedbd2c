"""The bundle contract: everything training writes and the service reads.

Light on purpose: standard library, pydantic, numpy and Pillow only.
"""

from service.bundle.calibration import p_values, threshold_at
from service.bundle.errors import (
    BundleCorrupt,
    BundleError,
    BundleIncomplete,
    BundleUnsupported,
    GoldenMismatch,
    ManifestInvalid,
)
from service.bundle.golden import Golden, check_golden
from service.bundle.layout import (
    CALIBRATION,
    FORWARD,
    GOLDEN,
    MANIFEST,
    BundleRef,
    check_seal,
    find_bundles,
    publish,
    read_calibration,
    read_golden,
    read_manifest,
    sha256_of,
    verify_files,
    write_calibration,
    write_golden,
    write_manifest,
)
from service.bundle.manifest import (
    SCHEMA_VERSION,
    Cost,
    DecisionPolicy,
    DetectorSpec,
    GoldenTolerance,
    ImageInput,
    Manifest,
    Modality,
    Provenance,
)
from service.bundle.preprocess import resize_pixels, to_model_pixels

__all__ = [
    "CALIBRATION",
    "FORWARD",
    "GOLDEN",
    "MANIFEST",
    "SCHEMA_VERSION",
    "BundleCorrupt",
    "BundleError",
    "BundleIncomplete",
    "BundleRef",
    "BundleUnsupported",
    "Cost",
    "DecisionPolicy",
    "DetectorSpec",
    "Golden",
    "GoldenMismatch",
    "GoldenTolerance",
    "ImageInput",
    "Manifest",
    "ManifestInvalid",
    "Modality",
    "Provenance",
    "check_golden",
    "check_seal",
    "find_bundles",
    "p_values",
    "publish",
    "read_calibration",
    "read_golden",
    "read_manifest",
    "resize_pixels",
    "sha256_of",
    "threshold_at",
    "to_model_pixels",
    "verify_files",
    "write_calibration",
    "write_golden",
    "write_manifest",
]
