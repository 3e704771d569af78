"""One object file of many, in which only chosen symbols are visible, so that two models fit into one program.

Format: System V ABI, Tool Interface Standard ELF 1.2 and its 64-bit extension, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

_HEADER, _SECTION, _SYMBOL, _RELOCATION = 64, 64, 24, 24
_SYMTAB, _RELA, _REL, _GROUP = 2, 4, 9, 17
_LOCAL, _HIDDEN, _UNDEFINED = 0, 2, 0


def hide_symbols(content: bytes, keep: Callable[[str], bool]) -> bytes:
    """A relocatable object in which every defined symbol is local, except those that `keep` accepts.

    The symbol table is sorted anew (local symbols come first), and relocations follow.
    """
    data = bytearray(content)
    start = struct.unpack_from("<Q", data, 40)[0]
    count = struct.unpack_from("<H", data, 60)[0]
    sections = [list(struct.unpack_from("<IIQQQQIIQQ", data, start + _SECTION * n)) for n in range(count)]
    for number, section in enumerate(sections):
        if section[1] == _SYMTAB:
            order, local = _sort_symbols(data, section, sections[section[6]], keep)
            struct.pack_into("<I", data, start + _SECTION * number + 44, local)
            _renumber(data, sections, start, number, order)
    return bytes(data)


def _sort_symbols(
    data: bytearray, table: list[int], strings: list[int], keep: Callable[[str], bool]
) -> tuple[dict[int, int], int]:
    """Rewrite a symbol table in place; returns new numbers by old ones, and how many are local."""
    at, size = table[4], table[5]
    symbols = [list(struct.unpack_from("<IBBHQQ", data, at + n)) for n in range(0, size, _SYMBOL)]
    for symbol in symbols:
        begin = strings[4] + symbol[0]
        name = data[begin : data.index(0, begin)].decode()
        if symbol[3] != _UNDEFINED and not keep(name):
            symbol[1] = _LOCAL << 4 | symbol[1] & 15
            symbol[2] = 0
    ordered = sorted(range(len(symbols)), key=lambda n: (symbols[n][1] >> 4 != _LOCAL, n))
    for place, number in enumerate(ordered):
        struct.pack_into("<IBBHQQ", data, at + place * _SYMBOL, *symbols[number])
    local = sum(symbol[1] >> 4 == _LOCAL for symbol in symbols)
    return {number: place for place, number in enumerate(ordered)}, local


def _renumber(
    data: bytearray, sections: list[list[int]], start: int, table: int, order: dict[int, int]
) -> None:
    """Make relocations and groups refer to symbols by their new numbers."""
    for number, (_, kind, _, _, at, size, link, info, _, _) in enumerate(sections):
        if link != table:
            continue
        if kind == _RELA:
            for place in range(at, at + size, _RELOCATION):
                (word,) = struct.unpack_from("<Q", data, place + 8)
                struct.pack_into("<Q", data, place + 8, order[word >> 32] << 32 | word & 0xFFFFFFFF)
        elif kind == _GROUP:
            struct.pack_into("<I", data, start + _SECTION * number + 44, order[info])


def archive(members: dict[str, bytes]) -> bytes:
    """A static library (`ar`, with System V's symbol index), the same bytes for the same members."""
    symbols = [(name, number) for number, content in enumerate(members.values()) for name in defined(content)]
    index_size = 4 + 4 * len(symbols) + sum(len(name.encode()) + 1 for name, _ in symbols)
    names = [f"{name}/" for name in members]
    if any(len(name) > 16 for name in names):
        raise ValueError("a member's name is longer than an archive takes without a table of names")
    place, offsets = 8 + 60 + index_size + index_size % 2, []
    for content in members.values():
        offsets.append(place)
        place += 60 + len(content) + len(content) % 2
    index = struct.pack(">I", len(symbols)) + b"".join(struct.pack(">I", offsets[n]) for _, n in symbols)
    index += b"".join(name.encode() + b"\0" for name, _ in symbols)
    parts = [b"!<arch>\n", _member("/", index)]
    parts += [_member(name, content) for name, content in zip(names, members.values(), strict=True)]
    return b"".join(parts)


def _member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def defined(content: bytes) -> list[str]:
    """The symbols that an object offers to others."""
    return [name for name, bind, index in _global_symbols(content) if index != _UNDEFINED and bind]


def undefined(content: bytes) -> list[str]:
    """The symbols that an object needs from others."""
    return [name for name, bind, index in _global_symbols(content) if index == _UNDEFINED and bind and name]


def _global_symbols(content: bytes) -> list[tuple[str, int, int]]:
    start, count = struct.unpack_from("<Q", content, 40)[0], struct.unpack_from("<H", content, 60)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, start + _SECTION * n) for n in range(count)]
    found = []
    for section in sections:
        if section[1] != _SYMTAB:
            continue
        strings = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], _SYMBOL):
            name, info, _, index, _, _ = struct.unpack_from("<IBBHQQ", content, at)
            begin = strings + name
            found.append((content[begin : content.index(0, begin)].decode(), info >> 4, index))
    return found
