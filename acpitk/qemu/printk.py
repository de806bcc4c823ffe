"""The kernel's log as its console prints it, read from printk's ring buffer in guest memory.

Sources: kernel/printk/printk_ringbuffer.c (descriptors, and text blocks that start with their descriptor's ID
and never wrap) and record_print_text() in kernel/printk/printk.c. The layout comes from the kernel's BTF.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Final

from acpitk.errors import DecodeError
from acpitk.vmlinux import btf_types

BUFFER, DESCRIPTORS, INFOS, RING = "__log_buf", "_printk_rb_static_descs", "_printk_rb_static_infos", "prb"
SYMBOLS: Final = frozenset({BUFFER, DESCRIPTORS, INFOS, "printk_rb_static"})
"""The variables that hold the log."""

_STATE_SHIFT, _STATES = 62, 3
_COMMITTED, _FINALIZED = 1, 2
"""enum desc_state, the top two bits of a descriptor's state_var."""
_ID = (1 << _STATE_SHIFT) - 1
_NO_TEXT = 1
"""Bit 0 of a block's positions: there is no text (FAILED_LPOS, EMPTY_LINE_LPOS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLayout:
    """Sizes and offsets in bytes.

    Args:
        ring_size: of struct printk_ringbuffer.
        count_bits, head_id, tail_id, size_bits: of those fields from its start.
        desc_size, info_size: of struct prb_desc and struct printk_info.
        state, begin, next: in struct prb_desc.
        seq, ts_nsec, text_len: in struct printk_info.
    """

    ring_size: int
    count_bits: int
    head_id: int
    tail_id: int
    size_bits: int
    desc_size: int
    info_size: int
    state: int
    begin: int
    next: int
    seq: int
    ts_nsec: int
    text_len: int


def read_log_layout(vmlinux: bytes | mmap.mmap) -> LogLayout:
    """The layout from a kernel image's BTF.

    Raises:
        DecodeError: no BTF, or a struct or field is missing: a kernel before 5.10 has another buffer.
    """
    names = ("printk_ringbuffer", "prb_desc_ring", "prb_data_ring", "prb_desc", "prb_data_blk_lpos")
    types = btf_types(vmlinux, frozenset({*names, "printk_info"})).structs
    ring, descs, data, desc, block = (types[name] for name in names)
    info = types["printk_info"]
    try:
        return LogLayout(
            ring_size=ring.size,
            count_bits=ring.fields["desc_ring"] + descs.fields["count_bits"],
            head_id=ring.fields["desc_ring"] + descs.fields["head_id"],
            tail_id=ring.fields["desc_ring"] + descs.fields["tail_id"],
            size_bits=ring.fields["text_data_ring"] + data.fields["size_bits"],
            desc_size=desc.size,
            info_size=info.size,
            state=desc.fields["state_var"],
            begin=desc.fields["text_blk_lpos"] + block.fields["begin"],
            next=desc.fields["text_blk_lpos"] + block.fields["next"],
            seq=info.fields["seq"],
            ts_nsec=info.fields["ts_nsec"],
            text_len=info.fields["text_len"],
        )
    except KeyError as error:
        raise DecodeError(f"no field {error.args[0]}", path="btf.types", offset=0) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """How large the buffer is, and the IDs of its first and last record."""

    descriptors: int
    bytes: int
    tail: int
    head: int


def read_ring(data: bytes, layout: LogLayout) -> Ring:
    """The variable `printk_rb_static`."""
    descriptors, size = (
        1 << (struct.unpack_from("<I", data, at)[0] & 31) for at in (layout.count_bits, layout.size_bits)
    )
    tail, head = (struct.unpack_from("<Q", data, at)[0] & _ID for at in (layout.tail_id, layout.head_id))
    return Ring(descriptors=descriptors, bytes=size, tail=tail, head=head)


def console_text(ring: Ring, layout: LogLayout, *, descriptors: bytes, infos: bytes, text: bytes) -> str | None:
    """What a console that prints everything shows; None where the oldest records are overwritten.

    Args:
        descriptors, infos: the arrays from the slot of the first record after boot on.
        text: the whole text buffer.
    """
    out: list[str] = []
    mask = ring.bytes - 1
    count = (ring.head - ring.tail & _ID) + 1
    first = ring.tail % ring.descriptors
    expected = None
    for number in range(count):
        slot = (first + number) % ring.descriptors
        (state,) = struct.unpack_from("<Q", descriptors, slot * layout.desc_size + layout.state)
        if state >> _STATE_SHIFT not in (_COMMITTED, _FINALIZED):
            continue
        if state & _ID != ring.tail + number & _ID:
            continue
        seq, stamp = (
            struct.unpack_from("<Q", infos, slot * layout.info_size + at)[0]
            for at in (layout.seq, layout.ts_nsec)
        )
        if expected is None and seq != 0:
            return None
        expected = seq + 1
        begin, end = (
            struct.unpack_from("<Q", descriptors, slot * layout.desc_size + at)[0]
            for at in (layout.begin, layout.next)
        )
        (size,) = struct.unpack_from("<H", infos, slot * layout.info_size + layout.text_len)
        line = ""
        if not begin & _NO_TEXT:
            start = begin & mask
            if begin // ring.bytes != end // ring.bytes and end & mask:
                start = 0
            line = text[start + 8 : min(start + 8 + size, start + (end - begin if start else end & mask))].decode(
                "utf-8", "replace"
            )
        prefix = f"[{stamp // 10**9:5d}.{stamp % 10**9 // 1000:06d}] "
        out += [f"{prefix}{part}\n" for part in line.split("\n")]
    return "".join(out)
