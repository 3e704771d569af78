"""Telemetry of libraries that edgec calls: off, because it describes the user's models."""

from __future__ import annotations

import os


def silence_onnxruntime() -> None:
    """Turn off ONNX Runtime's telemetry; to be called before `onnxruntime` is imported for the first time.

    Since 1.29 its packages for Linux send file names, hashes and shapes of the models that they load to
    Microsoft, unless the environment says otherwise ("Disabling Telemetry" in the package's `Privacy.md`). A
    value that the user has set is kept.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
