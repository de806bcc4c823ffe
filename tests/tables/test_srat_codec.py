"""The SRAT codec loses nothing, and agrees with the specification's offsets."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import DecodeError, EncodeError
from acpitk.tables.header import checksum_valid
from acpitk.tables.srat import (
    FIXED_SIZE,
    SUBTABLES,
    AcpiHandle,
    Entry,
    GenericFlags,
    GenericInitiatorAffinity,
    GenericPortAffinity,
    GiccAffinity,
    ItsAffinity,
    MemoryAffinity,
    MemoryFlags,
    PciHandle,
    ProcessorAffinity,
    ProcessorFlags,
    RintcAffinity,
    UnknownEntry,
    UnknownHandle,
    X2ApicAffinity,
    build_srat,
    decode_srat,
    encode_srat,
    entry_offsets,
    entry_size,
    srat_fields,
)

PXM, U32, U64 = 0x12345678, 0x9ABCDEF0, 0x1122334455667788
FLAGS = 0x8000_0001
"""Enabled, and a bit the specification reserves."""

# Entry, and the same structure packed from the tables of ACPI 6.6 section 5.2.16.
SPECIFIED: list[tuple[Entry, bytes]] = [
    (
        ProcessorAffinity(
            proximity_domain=PXM, apic_id=7, flags=ProcessorFlags(FLAGS), sapic_eid=9, clock_domain=U32
        ),
        struct.pack("<BBBBIB3sI", 0, 16, 0x78, 7, FLAGS, 9, b"\x56\x34\x12", U32),
    ),
    (
        MemoryAffinity(
            proximity_domain=PXM,
            base=U64,
            length=U64 + 1,
            flags=MemoryFlags(0x8000_000F),
            reserved1=0x1234,
            reserved2=5,
            reserved3=6,
        ),
        struct.pack("<BBIHQQIIQ", 1, 40, PXM, 0x1234, U64, U64 + 1, 5, 0x8000_000F, 6),
    ),
    (
        X2ApicAffinity(
            proximity_domain=PXM,
            x2apic_id=U32,
            flags=ProcessorFlags(FLAGS),
            clock_domain=3,
            reserved1=1,
            reserved2=2,
        ),
        struct.pack("<BBHIIIII", 2, 24, 1, PXM, U32, FLAGS, 3, 2),
    ),
    (
        GiccAffinity(
            proximity_domain=PXM, acpi_processor_uid=U32, flags=ProcessorFlags(FLAGS), clock_domain=3
        ),
        struct.pack("<BBIIII", 3, 18, PXM, U32, FLAGS, 3),
    ),
    (ItsAffinity(proximity_domain=PXM, its_id=U32, reserved=1), struct.pack("<BBIHI", 4, 12, PXM, 1, U32)),
    (
        GenericInitiatorAffinity(
            proximity_domain=PXM,
            handle=AcpiHandle(hid=b"PNP0C80\0", uid=U32, reserved=3),
            flags=GenericFlags(0x8000_0003),
            reserved1=1,
            reserved2=2,
        ),
        struct.pack("<BBBBI8sIIII", 5, 32, 1, 0, PXM, b"PNP0C80\0", U32, 3, 0x8000_0003, 2),
    ),
    (
        GenericPortAffinity(
            proximity_domain=PXM,
            handle=PciHandle(segment=0x1234, bus=0x56, devfn=0x1F << 3 | 7, reserved=b"reserved-12b"),
            flags=GenericFlags(2),
            reserved1=1,
            reserved2=2,
        ),
        struct.pack("<BBBBIHBB12sII", 6, 32, 1, 1, PXM, 0x1234, 0x56, 0xFF, b"reserved-12b", 2, 2),
    ),
    (
        GenericPortAffinity(proximity_domain=PXM, handle=UnknownHandle(type=9, raw=b"sixteen bytes ok")),
        struct.pack("<BBBBI16sII", 6, 32, 0, 9, PXM, b"sixteen bytes ok", 1, 0),
    ),
    (
        RintcAffinity(
            proximity_domain=PXM,
            acpi_processor_uid=U32,
            flags=ProcessorFlags(FLAGS),
            clock_domain=3,
            reserved=1,
        ),
        struct.pack("<BBHIIII", 7, 20, 1, PXM, U32, FLAGS, 3),
    ),
    (UnknownEntry(raw=b"\x80\x05abc"), b"\x80\x05abc"),
    (UnknownEntry(raw=b"\x01\x08short!"), b"\x01\x08short!"),
    (
        ItsAffinity(proximity_domain=PXM, its_id=U32, declared_length=14, extra=b"xy"),
        struct.pack("<BBIHI2s", 4, 14, PXM, 0, U32, b"xy"),
    ),
]
"""Every structure type, every handle type, and the two ways a length can be off."""

ENTRIES = tuple(entry for entry, _ in SPECIFIED)


def fixed_part(length: int) -> st.SearchStrategy[bytes]:
    """SRAT headers, `length` written in, all else arbitrary."""
    rest = st.binary(min_size=FIXED_SIZE - 8, max_size=FIXED_SIZE - 8)
    return rest.map(lambda tail: b"SRAT" + struct.pack("<I", length) + tail)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """SRATs made of well-formed, truncated, overlong and arbitrary pieces."""
    known = st.sampled_from([raw for _, raw in SPECIFIED])
    sized = st.builds(
        lambda kind, body: bytes([kind, len(body) + 2]) + body, st.integers(0, 255), st.binary(max_size=60)
    )
    pieces = draw(st.lists(known | sized | st.binary(max_size=50), max_size=12))
    return draw(fixed_part(draw(st.integers(0, 2**32 - 1)))) + b"".join(pieces)


@pytest.mark.parametrize(("entry", "raw"), SPECIFIED, ids=lambda x: type(x).__name__)
def test_structures_match_the_specification(entry: Entry, raw: bytes) -> None:
    table = encode_srat(build_srat((entry,)))
    assert table[FIXED_SIZE:] == raw
    decoded = decode_srat(table)
    assert decoded.entries == (entry,)
    assert type(decoded.entries[0]) is type(entry)
    assert not decoded.trailing


def test_every_structure_type_is_covered() -> None:
    assert {entry.type for entry in ENTRIES if not isinstance(entry, UnknownEntry)} == set(SUBTABLES)
    assert set(SUBTABLES) == set(range(8))


@given(tables())
def test_encode_undoes_decode(data: bytes) -> None:
    srat = decode_srat(data)
    assert encode_srat(srat) == data
    assert decode_srat(encode_srat(srat)) == srat


@given(st.binary(max_size=300))
def test_encode_undoes_decode_for_arbitrary_bytes_after_the_header(tail: bytes) -> None:
    data = b"SRAT" + bytes(FIXED_SIZE - 4) + tail
    assert encode_srat(decode_srat(data)) == data


@given(tables())
def test_offsets_locate_each_entry_and_trailing_is_the_rest(data: bytes) -> None:
    srat = decode_srat(data)
    end = FIXED_SIZE
    for offset, entry in srat.located():
        assert offset == end
        assert data[offset] == entry.type
        assert data[offset + 1] == entry.declared_length == entry_size(entry)
        end = offset + entry_size(entry)
    assert data[end:] == srat.trailing
    assert len(entry_offsets(srat)) == len(srat.entries)


@given(tables())
def test_fields_tile_the_table(data: bytes) -> None:
    end = 0
    for field in srat_fields(data):
        assert field.offset == end
        raw = data[field.offset : field.offset + field.size]
        value = raw if isinstance(field.value, bytes) else int.from_bytes(raw, "little")
        assert field.value == value
        end += field.size
    assert end == len(data)


@given(st.lists(st.sampled_from(ENTRIES), max_size=6))
def test_built_tables_are_well_formed(entries: list[Entry]) -> None:
    srat = build_srat(tuple(entries))
    data = encode_srat(srat)
    assert checksum_valid(data)
    assert srat.header.length == len(data)
    assert decode_srat(data) == srat


@pytest.mark.parametrize(
    "tail", [b"\x01\x00" + bytes(38), b"\x01\x01" + bytes(38), b"\x01\x29" + bytes(38), b"\x01"]
)
def test_a_structure_that_cannot_be_walked_ends_the_walk(tail: bytes) -> None:
    first = ItsAffinity(proximity_domain=0, its_id=1)
    srat = decode_srat(encode_srat(build_srat((first,))) + tail)
    assert srat.entries == (first,)
    assert srat.trailing == tail


@given(st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_a_wrong_length_or_checksum_is_a_value(length: int, checksum: int) -> None:
    srat = build_srat((MemoryAffinity(proximity_domain=0, base=0, length=1),))
    wrong = replace(srat, header=replace(srat.header, length=length, checksum=checksum))
    assert decode_srat(encode_srat(wrong)) == wrong


@given(st.integers(0, 2**32 - 1))
def test_reserved_flag_bits_survive(bits: int) -> None:
    entry = MemoryAffinity(proximity_domain=0, base=0, length=1, flags=MemoryFlags(bits))
    (decoded,) = decode_srat(encode_srat(build_srat((entry,)))).memory_affinities()
    assert int(decoded.flags) == bits


def test_edits_are_copies() -> None:
    srat = build_srat(ENTRIES)
    changed = srat.with_entry(1, ENTRIES[0])
    assert changed.entries[1] == ENTRIES[0]
    assert srat.entries == ENTRIES
    assert srat.with_entries(()).entries == ()
    assert srat.memory_affinities() == (ENTRIES[1],)
    with pytest.raises(IndexError):
        srat.with_entry(len(ENTRIES), ENTRIES[0])


def test_pci_device_and_function() -> None:
    handle = PciHandle(segment=0, bus=0x3A, devfn=0x0B)
    assert (handle.device, handle.function) == (1, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "srat.header at byte 0"),
        (b"SRAT" + bytes(31), "srat.header at byte 35"),
        (b"SLIT" + bytes(50), "srat.header.signature at byte 0 .*b'SLIT'"),
        (b"SRAT" + bytes(43), "srat at byte 47 .*at least 48"),
    ],
)
def test_what_is_no_srat_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        decode_srat(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        (MemoryAffinity(proximity_domain=0, base=1 << 64, length=0), "base"),
        (MemoryAffinity(proximity_domain=0, base=0, length=-1), "length"),
        (MemoryAffinity(proximity_domain=0, base=0, length=0, declared_length=256), "declared_length"),
        (ProcessorAffinity(proximity_domain=1 << 32, apic_id=0), "proximity_domain"),
        (ProcessorAffinity(proximity_domain=-1, apic_id=0), "proximity_domain"),
        (ProcessorAffinity(proximity_domain=0, apic_id=256), "apic_id"),
        (
            GenericPortAffinity(proximity_domain=0, handle=PciHandle(segment=0, bus=256, devfn=0)),
            "handle.bus",
        ),
        (GenericPortAffinity(proximity_domain=0, handle=AcpiHandle(hid=b"short", uid=0)), "handle.hid"),
        (GenericPortAffinity(proximity_domain=0, handle=UnknownHandle(type=2, raw=b"short")), "handle"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_value_that_does_not_fit_is_named(entry: Entry, path: str) -> None:
    srat = build_srat((ENTRIES[0],))
    for _ in range(2):
        with pytest.raises(EncodeError) as caught:
            encode_srat(srat.with_entries((ENTRIES[0], entry)))
        assert caught.value.path == f"srat.entries[1].{path}"


def test_an_unknown_entry_has_a_header() -> None:
    with pytest.raises(ValueError, match="type and a length"):
        UnknownEntry(raw=b"\x09")


def test_real_tables_round_trip(real_tables: Path) -> None:
    paths = sorted(real_tables.glob("*.srat.bin"))
    assert paths
    for path in paths:
        data = path.read_bytes()
        srat = decode_srat(data)
        assert encode_srat(srat) == data, path.name
        assert srat.memory_affinities(), path.name
        assert not srat.trailing, path.name
