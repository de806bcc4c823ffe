"""Data-table source: every byte the format can say is said, and what it cannot say is listed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import DecodeError
from acpitk.tables.asl import Dialect, inexpressible, render
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, decode_slit, encode_slit
from acpitk.tables.srat import (
    Entry,
    GenericFlags,
    GenericPortAffinity,
    ItsAffinity,
    MemoryAffinity,
    MemoryFlags,
    PciHandle,
    RintcAffinity,
    UnknownEntry,
    build_srat,
    encode_srat,
)

MEMORY = MemoryAffinity(proximity_domain=1, base=1 << 32, length=1 << 30, flags=MemoryFlags(3))
PORT = GenericPortAffinity(proximity_domain=2, handle=PciHandle(segment=0, bus=1, devfn=8))
LINE = re.compile(r"\[(\d{4})\] +([^:]+?) : (.*)")


def srat(*entries: Entry) -> bytes:
    return encode_srat(build_srat(entries))


def bytes_in(source: str) -> bytes:
    """The bytes the source's lines spell, read without acpitk."""
    out = b""
    for size, _label, value in LINE.findall(source.replace(" \\\n", " ")):
        text = value.split("[")[0].strip()
        if text.startswith('"'):
            out += text.strip('"').encode().ljust(int(size), b"\0")
        elif " " in text:
            out += bytes.fromhex(text)
        else:
            out += int(text, 16).to_bytes(int(size), "little")
    return out


@given(
    st.lists(
        st.sampled_from([MEMORY, PORT, ItsAffinity(proximity_domain=0, its_id=1)])
        | st.builds(RintcAffinity, proximity_domain=st.integers(0, 2**32 - 1), acpi_processor_uid=st.just(3)),
        max_size=5,
    )
)
def test_the_lines_spell_the_table(entries: list[Entry]) -> None:
    table = srat(*entries)
    assert inexpressible(table) == ()
    assert bytes_in(render(table)) == table


@given(st.integers(2, 40), st.data())
def test_the_lines_spell_a_slit(size: int, data: st.DataObject) -> None:
    matrix = data.draw(st.binary(min_size=size * size, max_size=size * size))
    table = encode_slit(build_slit([matrix[i * size : (i + 1) * size] for i in range(size)]))
    assert inexpressible(table) == ()
    assert bytes_in(render(table)) == table


def test_flags_have_lines_of_their_own() -> None:
    source = render(srat(MEMORY))
    assert re.findall(r"^ +(\S.*) : ([01])$", source, re.MULTILINE) == [
        ("Enabled", "1"),
        ("Hot Pluggable", "1"),
        ("Non-Volatile", "0"),
    ]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (srat(UnknownEntry(raw=b"\x09\x04ab")), r"entries\[0\]: structure type 9"),
        (srat(UnknownEntry(raw=b"\x01\x04ab")), r"entries\[0\]: length 4 is too short for type 1"),
        (srat(replace(MEMORY, declared_length=41, extra=b"x")), r"entries\[0\]: 1 bytes more"),
        (srat(MEMORY, replace(MEMORY, flags=MemoryFlags(0x8000_0009))), r"entries\[1\].flags: .* 0x80000008"),
        (seal(srat(MEMORY) + b"\0\0\0"), "3 trailing bytes"),
        (srat(MEMORY)[:9] + b"\xee" + srat(MEMORY)[10:], "header.checksum 0xee is wrong"),
        (encode_srat(build_srat((MEMORY,), oem_id=b'A"B   ')), "header.oem_id"),
        (encode_srat(build_srat((MEMORY,), oem_id=b"A\0B   ")), "header.oem_id"),
        (encode_srat(build_srat((MEMORY,), oem_table_id=b"\xff" * 8)), "header.oem_table_id"),
        (seal(encode_srat(replace(build_srat((MEMORY,)), reserved=1))), "reserved 0x1 at byte 40"),
        (seal(srat(MEMORY))[:4] + b"\x00\x01\0\0" + srat(MEMORY)[8:], "header.length is 256"),
        (seal(encode_slit(replace(build_slit([[10]]), localities=2))), "1 distances for 2 localities"),
        (seal(encode_slit(replace(build_slit([[10]]), localities=0xFFFFFFFF))), "more than iasl can count"),
        (seal(encode_slit(replace(build_slit([[10]]), trailing=b"x"))), "1 trailing bytes"),
    ],
)
def test_what_the_format_cannot_say_is_listed(table: bytes, reason: str) -> None:
    reasons = inexpressible(table)
    assert any(re.search(reason, line) for line in reasons), reasons
    assert render(table).isascii()


def test_an_older_iasl_has_fewer_words() -> None:
    old = Dialect(srat_types=frozenset(range(6)), generic_flags=GenericFlags.ENABLED)
    table = srat(PORT)
    assert inexpressible(table) == ()
    assert inexpressible(table, dialect=old) == ("entries[0]: structure type 6 is unknown to iasl",)
    assert "left out: structure of type 6 at byte 48" in render(table, dialect=old)


@given(st.binary(max_size=120), st.sampled_from([b"SRAT", b"SLIT"]))
def test_any_table_renders_to_ascii_without_escaping_its_comments(tail: bytes, signature: bytes) -> None:
    source = render(signature + bytes(44) + tail)
    assert source.isascii()
    assert source.count("/*") == source.count("*/")


def test_a_huge_count_does_not_make_huge_source() -> None:
    slit = replace(decode_slit(encode_slit(build_slit([[10]]))), localities=2**64 - 1)
    assert len(render(encode_slit(slit))) < 2000


def test_other_tables_are_refused() -> None:
    with pytest.raises(DecodeError, match="SRAT and SLIT only"):
        render(b"APIC" + bytes(60))
