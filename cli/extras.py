"""Optional packages: which extra of edgec installs each, and which commands are of no use without them."""

from __future__ import annotations

import importlib.util

EXTRAS = {
    "compiler": ("tvm", "onnx", "onnxruntime", "ziglang", "google", "ml_dtypes"),
    "fleet": (
        "alembic", "amqtt", "authlib", "fastapi", "joserfc", "nicegui", "psycopg", "python_multipart", "sqlalchemy",
        "starlette", "uvicorn",
    ),
    "s3": ("boto3", "botocore"),
    "pkcs11": ("asn1crypto", "pkcs11"),
    "audio": ("sounddevice", "soundfile"),
    "trees": ("joblib", "lightgbm", "skl2onnx", "sklearn", "xgboost"),
    "tflite": ("ai_edge_litert", "flatbuffers"),
    "tensorflow": ("keras", "tensorflow"),
    "torch": ("onnx_ir", "onnxscript", "torch"),
}  # fmt: skip
"""Extra → the modules that its packages, and those that they require, provide to edgec."""

NEEDS = {
    "compile": ("compiler",), "verify": ("compiler",), "debug": ("compiler",), "runtime": ("compiler",),
    "libedgec": ("compiler",), "demo": ("compiler", "fleet"),
}  # fmt: skip
"""Command → the extras without which it can do nothing. Others, such as `inspect`, need an extra in some uses only."""

_BY_MODULE = {module: extra for extra, modules in EXTRAS.items() for module in modules}


def extra_of(module: str | None) -> str | None:
    """Return the extra that installs `module` (a dotted name), or None if none does."""
    return _BY_MODULE.get((module or "").partition(".")[0])


def missing_extras(command: str) -> list[str]:
    """Return the extras that `command` needs and that are not installed."""
    return [
        extra
        for extra in NEEDS.get(command, ())
        if not all(importlib.util.find_spec(m) for m in EXTRAS[extra])
    ]


def install_line(*extras: str) -> str:
    """Return the shell command that installs `extras`."""
    return f"pip install 'edgec[{','.join(extras)}]'"
