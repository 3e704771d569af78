"""The base class of all tables.

Times are Unix seconds as floats, so that both databases order them alike.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, Integer
from sqlalchemy.orm import DeclarativeBase

# SQLite generates keys only for the type INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Parent of all tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, list[str]: JSON, float: Float}  # noqa: RUF012
