"""Why a connection failed, for people: a certificate that only the clock rejects is the clock's fault."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

NOT_YET_VALID, EXPIRED = 9, 10
"""OpenSSL's verify codes (X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED)."""
_LATEST_YEAR = 2100


def cause_of(error: BaseException) -> str:
    """Return what went wrong: the error's own text, unless it is about the time."""
    return clock_cause(error) or str(error) or type(error).__name__


def clock_cause(error: BaseException) -> str:
    """Return what the clock has to do with a failed connection; empty if nothing."""
    for one in _chain(error):
        if not isinstance(one, ssl.SSLCertVerificationError):
            continue
        if one.verify_code == NOT_YET_VALID:
            return f"this device's clock shows {shown_time()}, before the server's certificate was made: set the clock"
        if one.verify_code == EXPIRED and time.gmtime().tm_year >= _LATEST_YEAR:
            return f"this device's clock shows {shown_time()}: set the clock"
        if one.verify_code == EXPIRED:
            return (
                f"this device's clock shows {shown_time()}, when the server's certificate has expired: set the clock, "
                "or, if it is right, renew that certificate"
            )
    return ""


def shown_time() -> str:
    """Return what the wall clock shows."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
