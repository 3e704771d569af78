"""Errors of the registry, as the OCI distribution specification defines them."""

from __future__ import annotations

import re

from starlette.responses import JSONResponse

REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class RegistryError(Exception):
    """An error of the specification: HTTP `status`, `code` from its table, `message` for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        detail: object = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = headers

    def response(self) -> JSONResponse:
        """The response that the specification requires."""
        body = {"errors": [{"code": self.code, "message": self.message, "detail": self.detail}]}
        return JSONResponse(body, self.status, headers=self.headers)


def check_repository(name: str) -> str:
    """Return the name if it is valid.

    Raises:
        RegistryError: NAME_INVALID.
    """
    if len(name) > 255 or not REPOSITORY.fullmatch(name):
        raise RegistryError(400, "NAME_INVALID", f"{name!r} is not a valid repository name")
    return name


def check_digest(value: str) -> str:
    """Return the digest if it is a SHA-256 digest.

    Raises:
        RegistryError: DIGEST_INVALID.
    """
    if not DIGEST.fullmatch(value):
        raise RegistryError(400, "DIGEST_INVALID", f"{value!r} is not a sha256 digest")
    return value


def blob_unknown(digest: str) -> RegistryError:
    """A blob that this repository does not hold."""
    return RegistryError(404, "BLOB_UNKNOWN", f"there is no blob {digest} in this repository")


def manifest_unknown(reference: str) -> RegistryError:
    """A manifest that this repository does not hold."""
    return RegistryError(404, "MANIFEST_UNKNOWN", f"there is no manifest {reference} in this repository")
