"""The SLIT codec loses nothing, and answers distances only where the table has them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import DecodeError, EncodeError
from acpitk.tables.header import checksum_valid
from acpitk.tables.slit import (
    FIXED_SIZE,
    UNREACHABLE,
    build_slit,
    decode_slit,
    encode_slit,
    slit_fields,
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """SLITs whose count and matrix need not agree."""
    header = b"SLIT" + draw(st.binary(min_size=32, max_size=32))
    localities = draw(st.integers(0, 6) | st.integers(0, 2**64 - 1))
    return header + struct.pack("<Q", localities) + draw(st.binary(max_size=50))


@given(tables())
def test_encode_undoes_decode(data: bytes) -> None:
    slit = decode_slit(data)
    assert encode_slit(slit) == data
    assert len(slit.entries) == min(slit.localities**2, len(data) - FIXED_SIZE)


@given(tables(), st.integers(-2, 8), st.integers(-2, 8))
def test_distance_is_the_byte_at_row_and_column(data: bytes, i: int, j: int) -> None:
    slit = decode_slit(data)
    at = FIXED_SIZE + i * slit.localities + j
    inside = 0 <= i < slit.localities and 0 <= j < slit.localities and at < len(data)
    assert slit.distance(i, j) == (data[at] if inside else None)


@given(tables())
def test_fields_tile_the_table(data: bytes) -> None:
    end = 0
    for field in slit_fields(data):
        assert field.offset == end
        end += field.size
    assert end == len(data)


def test_built_tables_are_well_formed() -> None:
    slit = build_slit([[10, 20, UNREACHABLE], [21, 10, 30], [255, 30, 10]])
    data = encode_slit(slit)
    assert checksum_valid(data)
    assert data[36:] == struct.pack("<Q", 3) + bytes([10, 20, 255, 21, 10, 30, 255, 30, 10])
    assert slit.header.length == len(data)
    assert (slit.distance(0, 1), slit.distance(1, 0), slit.distance(0, 3)) == (20, 21, None)


@pytest.mark.parametrize(
    ("rows", "path"), [([[10, 20], [20]], "slit.rows[1]"), ([[10, 256], [20, 10]], "slit.rows[0][1]")]
)
def test_a_matrix_that_does_not_fit_is_named(rows: list[list[int]], path: str) -> None:
    with pytest.raises(EncodeError) as caught:
        build_slit(rows)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(10), "slit.header at byte 10"),
        (b"SRAT" + bytes(60), "slit.header.signature at byte 0"),
        (b"SLIT" + bytes(39), "slit.localities at byte 43"),
    ],
)
def test_what_is_no_slit_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode_slit(data)


def test_real_tables_round_trip(real_tables: Path) -> None:
    paths = sorted(real_tables.glob("*.slit.bin"))
    assert paths
    for path in paths:
        slit = decode_slit(path.read_bytes())
        assert encode_slit(slit) == path.read_bytes(), path.name
        assert {slit.distance(i, i) for i in range(slit.localities)} == {10}, path.name
