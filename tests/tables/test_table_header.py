"""The common header: length and checksum have one writer, and everything else keeps what is there."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import DecodeError, EncodeError
from acpitk.tables.header import (
    HEADER_SIZE,
    checksum_valid,
    decode_header,
    encode_header,
    new_header,
    seal,
)


@given(st.binary(min_size=HEADER_SIZE, max_size=400))
def test_seal_makes_length_and_checksum_right_and_changes_nothing_else(table: bytes) -> None:
    sealed = seal(table)
    assert checksum_valid(sealed)
    assert struct.unpack_from("<I", sealed, 4) == (len(table),)
    assert (sealed[:4], sealed[8:9], sealed[10:]) == (table[:4], table[8:9], table[10:])
    assert seal(sealed) == sealed


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_header_round_trips_and_matches_the_specification(data: bytes) -> None:
    header = decode_header(data, path="table")
    assert encode_header(header, path="table") == data
    fields = tuple(getattr(header, name) for name in type(header).__slots__)
    assert fields == struct.unpack("<4sIBB6s8sI4sI", data)


@given(st.binary(max_size=HEADER_SIZE - 1))
def test_too_short_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"srat\.header at byte") as caught:
        decode_header(data, path="srat")
    assert caught.value.offset == len(data)
    with pytest.raises(EncodeError, match=r"header\.length"):
        seal(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("oem_id", b"12345"),
        ("oem_table_id", b"123456789"),
        ("creator_id", b""),
        ("oem_revision", 1 << 32),
        ("creator_revision", -1),
    ],
)
def test_a_value_that_does_not_fit_is_named(field: str, value: bytes | int) -> None:
    header = new_header(b"SRAT", 3, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match=rf"^srat\.header\.{field}: "):
        encode_header(header, path="srat")


def test_lengths_that_cancel_out_are_still_refused() -> None:
    header = new_header(b"SRAT", 3, oem_id=b"12345", oem_table_id=b"123456789")
    with pytest.raises(EncodeError, match="oem_id"):
        encode_header(header, path="srat")
