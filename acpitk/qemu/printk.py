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

RING, DESCRIPTORS, INFOS, BUFFER = (
    "printk_rb_static",
    "_printk_rb_static_descs",
    "_printk_rb_static_infos",
    "__log_buf",
)
SYMBOLS: Final = frozenset({RING, DESCRIPTORS, INFOS, BUFFER})
"""The variables that hold the log."""

_STATE_SHIFT = 62
_RESERVED, _REUSABLE = 0, 3
"""enum desc_state, the top two bits of state_var: still being written; text perhaps overwritten."""
_ID = (1 << 32) - 1
"""As much of a descriptor's ID as is looked at: the kernel's first is (unsigned int)-(descriptors + 1)."""
_BLOCK_HEAD = 8
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
        ts_nsec, text_len: in struct printk_info.
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
            ts_nsec=info.fields["ts_nsec"],
            text_len=info.fields["text_len"],
        )
    except KeyError as error:
        raise DecodeError(f"no field {error.args[0]}", path="btf.types", offset=0) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Records written since boot, None once the first of them are gone; bytes of the text buffer."""

    records: int | None
    bytes: int


def read_ring(data: bytes, layout: LogLayout) -> Ring:
    """The variable `printk_rb_static`."""
    descriptors, size = (
        1 << (struct.unpack_from("<I", data, at)[0] & 31) for at in (layout.count_bits, layout.size_bits)
    )
    tail, head = (struct.unpack_from("<Q", data, at)[0] & _ID for at in (layout.tail_id, layout.head_id))
    before = -(descriptors + 1) & _ID  # DESC0_ID, the ID before the first
    return Ring(records=head - before & _ID if tail == before else None, bytes=size)


def console_text(
    records: int, layout: LogLayout, *, descriptors: bytes, infos: bytes, text: bytes
) -> str | None:
    """What a console that prints everything shows of the first `records` records; None where one is gone.

    Args:
        descriptors, infos: at least that many of each array.
        text: the text buffer, as far as it is used.

    Raises:
        DecodeError: they are not records.
    """
    out: list[str] = []
    mask = len(text) - 1
    try:
        for slot in range(records):
            at, info = slot * layout.desc_size, slot * layout.info_size
            (state,) = struct.unpack_from("<Q", descriptors, at + layout.state)
            if state >> _STATE_SHIFT == _REUSABLE:
                return None
            if state >> _STATE_SHIFT == _RESERVED:
                continue
            begin, end = struct.unpack_from("<QQ", descriptors, at + layout.begin)
            (stamp,) = struct.unpack_from("<Q", infos, info + layout.ts_nsec)
            (size,) = struct.unpack_from("<H", infos, info + layout.text_len)
            start = (begin & mask) + _BLOCK_HEAD
            line = (
                ""
                if begin & _NO_TEXT
                else text[start : start + min(size, end - begin - _BLOCK_HEAD)].decode("utf-8", "replace")
            )
            prefix = f"[{stamp // 10**9:5d}.{stamp % 10**9 // 1000:06d}] "
            out += [f"{prefix}{part}\n" for part in line.split("\n")]
    except struct.error:
        raise DecodeError("the log is not where its descriptors say", path="printk", offset=0) from None
    return "".join(out)
