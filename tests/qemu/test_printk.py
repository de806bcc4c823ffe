"""printk's ring buffer: what was put in comes out as a console prints it."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from acpitk.qemu.printk import LogLayout, Ring, console_text, read_ring

LAYOUT = LogLayout(
    ring_size=88, count_bits=0, head_id=24, tail_id=32, size_bits=48,
    desc_size=24, info_size=88, state=0, begin=8, ts_nsec=8, text_len=16,
)  # fmt: skip
_COUNT_BITS, _SIZE_BITS = 4, 12
_FIRST = -(1 << _COUNT_BITS) & 0xFFFFFFFF
_FINALIZED, _REUSABLE = 2, 3

texts = st.text(st.characters(codec="ascii", exclude_characters="\0\n"), max_size=60)
records = st.lists(st.tuples(st.integers(0, 10**13), texts), max_size=16)


def _ring(written: list[tuple[int, str]]) -> tuple[bytes, bytes, bytes, bytes]:
    ring = bytearray(88)
    struct.pack_into("<I", ring, 0, _COUNT_BITS)
    struct.pack_into("<I", ring, 48, _SIZE_BITS)
    before = _FIRST - 1
    struct.pack_into("<QQ", ring, 24, before + len(written), before)
    descriptors, infos, text = b"", b"", bytearray(1 << _SIZE_BITS)
    at = -(1 << _SIZE_BITS) & (1 << 64) - 1
    for number, (stamp, line) in enumerate(written):
        data = line.encode()
        size = (8 + len(data) + 7) & ~7
        begin, end = (at, at + size & (1 << 64) - 1) if data else (3, 3)
        descriptors += struct.pack("<QQQ", _FINALIZED << 62 | _FIRST + number, begin, end)
        infos += struct.pack("<QQH", number, stamp, len(data)).ljust(88, b"\0")
        if data:
            place = begin & (1 << _SIZE_BITS) - 1
            text[place + 8 : place + 8 + len(data)] = data
            at = end
    return bytes(ring), descriptors, infos, bytes(text)


@given(records)
def test_every_record_is_a_line_with_its_time(written: list[tuple[int, str]]) -> None:
    ring, descriptors, infos, text = _ring(written)
    assert read_ring(ring, LAYOUT) == Ring(records=len(written), bytes=1 << _SIZE_BITS)
    console = console_text(len(written), LAYOUT, descriptors=descriptors, infos=infos, text=text)
    assert console == "".join(
        f"[{stamp // 10**9:5d}.{stamp % 10**9 // 1000:06d}] {line}\n" for stamp, line in written
    )


def test_overwritten_records_are_noticed() -> None:
    ring, descriptors, infos, text = _ring([(0, "first"), (1, "second")])
    gone = struct.pack("<Q", _REUSABLE << 62 | _FIRST) + descriptors[8:]
    assert console_text(2, LAYOUT, descriptors=gone, infos=infos, text=text) is None
    recycled = bytearray(ring)
    struct.pack_into("<Q", recycled, 32, _FIRST)
    assert read_ring(bytes(recycled), LAYOUT).records is None


def test_lines_within_a_record_get_its_time_each() -> None:
    _, descriptors, infos, text = _ring([(1_500_000, "one\ntwo")])
    console = console_text(1, LAYOUT, descriptors=descriptors, infos=infos, text=text)
    assert console == "[    0.001500] one\n[    0.001500] two\n"
