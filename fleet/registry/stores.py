"""Open the blob stores that the settings name."""

from __future__ import annotations

from edgec.fleet.registry.blobs import BlobFolder, BlobStore
from edgec.fleet.settings import Settings


def open_stores(settings: Settings) -> tuple[BlobStore, BlobStore]:
    """The registry's blobs, and the pictures for retraining.

    Raises:
        FleetError: the bucket cannot be used.
    """
    if settings.blobs is None:
        return BlobFolder(settings.data), BlobFolder(settings.data / "captures")
    from edgec.fleet.registry.s3 import BlobBucket

    bucket = BlobBucket.open(settings.blobs, settings.s3_endpoint, redirect=settings.s3_redirect)
    return bucket, bucket.within("captures/")
