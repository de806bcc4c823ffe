"""Reading ELF sections, BTF types and the layout made of them, against files written here."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import DecodeError
from acpitk.kernel.build import build_of
from acpitk.kernel.policy import BUILDS
from acpitk.qemu.guest_memory import Layout, read_layout
from acpitk.vmlinux import elf_sections

INT, PTR, ARRAY, STRUCT, ENUM, FLOAT = 1, 2, 3, 4, 6, 16


class Btf:
    """A writer of BTF (Documentation/bpf/btf.rst)."""

    def __init__(self) -> None:
        self.names = bytearray(b"\0")
        self.types = bytearray()

    def name(self, text: str) -> int:
        self.names += text.encode() + b"\0"
        return len(self.names) - len(text) - 1

    def type(self, kind: int, name: str, size: int, body: bytes = b"", count: int = 0, flag: int = 0) -> None:
        info = flag << 31 | kind << 24 | count
        self.types += struct.pack("<III", self.name(name) if name else 0, info, size) + body

    def struct(self, name: str, size: int, bitfields: int = 0, **members: int) -> None:
        rows = b"".join(struct.pack("<III", self.name(m), 1, at * 8) for m, at in members.items())
        self.type(STRUCT, name, size, rows, len(members), bitfields)

    def enum(self, name: str, *values: str) -> None:
        rows = b"".join(struct.pack("<Ii", self.name(v), i) for i, v in enumerate(values))
        self.type(ENUM, name, 4, rows, len(values))

    def bytes(self) -> bytes:
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.names)
        )
        return head + self.types + self.names


def types(*, zone: str = "zone", field: str = "spanned_pages", bitfields: int = 0) -> bytes:
    btf = Btf()
    btf.type(INT, "unsigned int", 4, struct.pack("<I", 32))
    btf.type(PTR, "", 1)
    btf.type(ARRAY, "", 0, struct.pack("<III", 1, 1, 5))
    btf.type(FLOAT, "float", 4)
    btf.struct("zoneref", 16, zone=0)
    btf.enum("zone_stat_item", "NR_FREE_PAGES")
    btf.enum(
        "zone_type", "ZONE_DMA", "ZONE_DMA32", "ZONE_NORMAL", "ZONE_MOVABLE", "ZONE_DEVICE", "__MAX_NR_ZONES"
    )
    btf.struct(
        zone, 1664, bitfields, zone_start_pfn=104, managed_pages=112, **{field: 120}, present_pages=128
    )
    btf.struct("pglist_data", 175488, node_zones=0, node_zonelists=8320, node_id=174000)
    btf.struct("mem_section", 16, section_mem_map=0, usage=8)
    return btf.bytes()


def elf(sections: dict[bytes, bytes], addresses: dict[bytes, int] | None = None) -> bytes:
    names = b"\0" + b"".join(name + b"\0" for name in sections) + b".shstrtab\0"
    body, headers = bytearray(64), [bytes(64)]
    for name, content in {**sections, b".shstrtab": names}.items():
        at = struct.pack(
            "<IIQQQQIIQQ",
            names.index(b"\0" + name + b"\0") + 1,
            1,
            0,
            (addresses or {}).get(name, 0),
            len(body),
            len(content),
            0,
            0,
            1,
            0,
        )
        headers.append(at)
        body += content
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(headers), len(headers) - 1
    )
    return bytes(body) + b"".join(headers)


def kernel_like(*, zone: str = "zone", field: str = "spanned_pages", bitfields: int = 0) -> bytes:
    return elf({b".text": b"code", b".BTF": types(zone=zone, field=field, bitfields=bitfields)})


EXPECTED = Layout(
    node_id=174000,
    node_zones=0,
    zone_size=1664,
    start_pfn=104,
    spanned_pages=120,
    present_pages=128,
    zones=("DMA", "DMA32", "Normal", "Movable", "Device"),
)


@pytest.mark.parametrize("bitfields", [0, 1])
def test_the_layout_is_read(bitfields: int) -> None:
    assert read_layout(kernel_like(bitfields=bitfields)) == EXPECTED


def test_a_missing_struct_or_field_is_named() -> None:
    with pytest.raises(DecodeError, match="zone"):
        read_layout(kernel_like(zone="other"))
    with pytest.raises(DecodeError, match="spanned_pages"):
        read_layout(kernel_like(field="other"))


@given(st.data())
def test_damaged_btf_is_one_clear_error_or_a_layout(data: st.DataObject) -> None:
    btf = bytearray(kernel_like())
    at = data.draw(st.integers(0, len(btf) - 1))
    if data.draw(st.booleans()):
        btf[at] = data.draw(st.integers(0, 255))
    else:
        del btf[at:]
    with contextlib.suppress(DecodeError):
        assert isinstance(read_layout(bytes(btf)), Layout)


def test_elf_sections_are_found_by_name() -> None:
    file = elf({b".text": b"code", b".BTF_ids": b"ids"}, {b".text": 0xFFFFFFFF81000000})
    text = elf_sections(file)[".text"]
    assert (file[text.offset : text.offset + text.size], text.address) == (b"code", 0xFFFFFFFF81000000)
    with pytest.raises(DecodeError, match=r"no section \.BTF"):
        read_layout(file)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_elf_or_read_cleanly(data: bytes) -> None:
    for file in (b"\x7fELF\2\1" + data, data):
        with pytest.raises(DecodeError):
            read_layout(file)


def test_the_build_of_another_kernel() -> None:
    addresses = {b".text": 0xFFFFFFFF81000000, b".brk": 0xFFFFFFFF84000000}
    file = elf({b".text": b"", b".brk": bytes(0x2000), b".BTF": types()}, addresses)
    build = build_of(file, BUILDS["v6.1"])
    assert (build.image_start, build.brk_start, build.image_end) == (0x1000000, 0x4000000, 0x4002000)
    assert (build.node_data, build.sections_per_root) == (0x2B000, 256)
    assert build_of(file, BUILDS["v7.3"]).node_data == 0x2AD80
    with pytest.raises(DecodeError, match=r"no section \.brk"):
        build_of(elf({b".text": b"", b".BTF": types()}), BUILDS["v6.1"])
