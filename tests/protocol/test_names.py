"""The grammar of names."""

from __future__ import annotations

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from edgec.protocol.errors import ProtocolError
from edgec.protocol.names import Name, check_name

BAD = ["", "a/b", "+", "#", "..", "-x", ".hidden", "x\n", "é", "a" * 65, "a b", "a\0"]


@pytest.mark.parametrize("name", ["a", "0", "cam-7", "Gate_2.left", "a" * 64])
def test_a_valid_name_is_returned(name: str) -> None:
    assert check_name(name) == name
    assert TypeAdapter(Name).validate_python(name) == name


@pytest.mark.parametrize("name", BAD)
def test_names_with_a_meaning_to_a_broker_or_a_file_system_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(f"{name!r} is not a valid stream")):
        check_name(name, "stream")
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)
