"""What all tables have in common.

Times are Unix seconds as floats, so that both databases order them alike.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, Integer
from sqlalchemy.orm import DeclarativeBase

# SQLite counts rows by itself only for the type INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Parent of all tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, list[str]: JSON, float: Float}  # noqa: RUF012
