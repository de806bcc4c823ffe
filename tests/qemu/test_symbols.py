"""kallsyms: tables made as scripts/kallsyms.c makes them are read back, and damaged ones are refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acpitk.errors import DecodeError
from acpitk.qemu.symbols import read_symbols

_RODATA = 0xFFFFFFFF82000000
_TEXT = 0xFFFFFFFF81000000
_WORDS = ("mem", "block", "_init", "acpi_", "numa")
"""Tokens of several characters, in places that stand for none."""


def _align(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _tokens() -> list[bytes]:
    tokens = [bytes([code]) if 0x20 < code < 0x7F else b"" for code in range(256)]
    for index, word in enumerate(_WORDS):
        tokens[0x80 + index] = word.encode()
    for index in range(256):  # every token has text, as in a real table
        tokens[index] = tokens[index] or b"\x7f" + bytes([0x30 + index % 10])
    return tokens


def _packed(name: str) -> bytes:
    """A name as tokens, its type in front, its length before."""
    out = b"T" + name.encode()
    for index, word in enumerate(_WORDS):
        out = out[:1] + out[1:].replace(word.encode(), bytes([0x80 + index]))
    size = bytes([len(out)]) if len(out) < 0x80 else bytes([len(out) & 0x7F | 0x80, len(out) >> 7])
    return size + out


def _kallsyms(symbols: Sequence[tuple[str, int]], *, relative: bool) -> bytes:
    """The tables in the order of Linux 6.4 and newer; offsets from `_TEXT`, or as negative numbers before."""
    names, marks = b"", []
    for index, (name, _) in enumerate(symbols):
        if index % 256 == 0:
            marks.append(len(names))
        names += _packed(name)
    tokens = _tokens()
    table = b"".join(token + b"\0" for token in tokens)
    places = [sum(len(token) + 1 for token in tokens[:index]) for index in range(256)]
    if relative:
        offsets = [address - _TEXT for _, address in symbols]
    else:
        offsets = [_TEXT - 1 - address for _, address in symbols]
    return b"".join(
        (
            b"whatever",
            _align(struct.pack("<I", len(symbols))),
            _align(names),
            _align(struct.pack(f"<{len(marks)}I", *marks)),
            _align(table),
            _align(struct.pack("<256H", *places)),
            _align(struct.pack(f"<{len(symbols)}i", *offsets)),
            struct.pack("<Q", _TEXT),
        )
    )


def _image(rodata: bytes) -> bytes:
    """An ELF file with that .rodata and a table of section names."""
    strings = b"\0.rodata\0.shstrtab\0"
    rows = [(0, 0, 0, 0, 0), (1, 1, _RODATA, 64, len(rodata)), (9, 3, 0, 64 + len(rodata), len(strings))]
    sections = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, address, offset, size, 0, 0, 1, 0)
        for name, kind, address, offset, size in rows
    )
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    at = 64 + len(rodata) + len(strings)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, at, 0, 64, 56, 0, 64, len(rows), 2)
    return ident + header + rodata + strings + sections


def _symbols(extra: int) -> list[tuple[str, int]]:
    named = [("_text", _TEXT), ("memblock_alloc_try_nid", _TEXT + 0x1234), ("acpi_numa_init", _TEXT + 0x2000)]
    return named + [(f"memblock_filler_{index}", _TEXT + 0x4000 + 16 * index) for index in range(extra)]


@settings(max_examples=5, deadline=None)
@given(extra=st.integers(17_000, 17_600), relative=st.booleans(), before=st.integers(0, 64))
def test_names_have_the_addresses_they_were_given(extra: int, relative: bool, before: int) -> None:
    symbols = _symbols(extra)
    wanted = frozenset(name for name, _ in symbols[1:4]) | {symbols[-1][0], "absent"}
    found = read_symbols(_image(bytes(8 * before) + _kallsyms(symbols, relative=relative)), wanted)
    assert found == {name: address for name, address in symbols if name in wanted}


def test_the_first_of_a_name_counts_and_long_names_are_whole() -> None:
    long = "long" * 60
    symbols = [*_symbols(17_000), ("twice", _TEXT + 8), ("twice", _TEXT + 16), (long, _TEXT + 24)]
    found = read_symbols(_image(_kallsyms(symbols, relative=True)), frozenset({"twice", long}))
    assert found == {"twice": _TEXT + 8, long: _TEXT + 24}


@pytest.mark.parametrize("cut", [0, 1000, 60_000])
def test_what_is_not_kallsyms_is_refused(cut: int) -> None:
    with pytest.raises(DecodeError):
        read_symbols(_image(_kallsyms(_symbols(17_000), relative=True)[:cut]), frozenset({"_text"}))


def test_offsets_that_do_not_reach_the_image_are_refused() -> None:
    tables = bytearray(_kallsyms(_symbols(17_000), relative=True))
    tables[-8:] = struct.pack("<Q", _TEXT + 64)
    with pytest.raises(DecodeError, match="does not decode"):
        read_symbols(_image(bytes(tables)), frozenset({"acpi_numa_init"}))
