"""What acpitk must know of a kernel image to stop it, patch it and read its memory; kept beside the image."""

from __future__ import annotations

import json
import mmap
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

from acpitk.errors import DecodeError, ToolError
from acpitk.qemu import printk
from acpitk.qemu.image import KernelImage
from acpitk.qemu.printk import LogLayout, read_log_layout
from acpitk.qemu.symbols import read_symbols
from acpitk.ranges import PAGE_SIZE, align_down, align_up
from acpitk.vmlinux import Struct, btf_types, elf_sections

START: Final = "e820__memory_setup"
"""Where a kernel is stopped before a case: nothing was read yet of the memory map, the command line's options
or ACPI. setup_arch() has printed the command line and reserved the initrd."""
TABLES: Final = "acpi_boot_table_init"
"""Where it looks for ACPI tables."""
ENDS: Final = ("mem_init", "memblock_free_all", "kmem_cache_init")
"""Where zones are set up and `runner.Marker.ZONES` is printed, whichever comes first."""
RESTART: Final = "emergency_restart"
"""Where a panic ends with `panic=-1`, once that option was read."""
DEAD: Final = "no_blink"
"""What a panic that does not end calls for ever after its last words: it blinks no LED."""

ALLOCATOR: Final = "memblock_alloc_try_nid"
"""Gives memblock's memory away, zeroed."""
_DETOURS = ("__fentry__", "__start_mcount_loc", "__stop_mcount_loc", "__x86_return_thunk")
_ZEROING = (ALLOCATOR, "memset", "page_offset_base")

_VARIABLES = ("boot_params", "boot_command_line", "command_line", "memblock", "_text")
_UNWIND = ("unwind_init", "orc_init", "orc_lookup", "lookup_num_blocks")
_CODE = (START, TABLES, *ENDS, RESTART, DEAD, "early_serial_write", "native_calibrate_cpu_early")
NAMES: Final = frozenset({*_VARIABLES, *_UNWIND, *_CODE, *_ZEROING, *_DETOURS, *printk.SYMBOLS})

_KEPT = "anatomy.json"
_FORMAT = 4
_CODE_SECTIONS = (".text", ".init.text", ".altinstr_replacement", ".exit.text")
_HIGH_MAP = 0xFFFFFFFF80000000
"""__START_KERNEL_map: the kernel's image is mapped here plus its physical address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One kernel image.

    Args:
        symbols: virtual addresses of those of `NAMES` it has.
        log: printk's ring buffer.
        orc_lookup: bytes of the table unwind_init() fills.
        params: offsets in struct boot_params.
        reserved: offset of `reserved` in struct memblock, and of cnt, total_size and regions from there.
        region_size: of struct memblock_region, which begins with base and size.
        code: physical start and end of what may hold instructions, whole pages.
    """

    symbols: Mapping[str, int]
    log: LogLayout
    orc_lookup: int
    params: Mapping[str, int]
    reserved: Mapping[str, int]
    region_size: int
    code: tuple[tuple[int, int], ...]

    def physical(self, name: str) -> int:
        """Where a symbol lies in RAM, bytes.

        Raises:
            ToolError: the kernel has no such symbol.
        """
        if name not in self.symbols:
            raise ToolError(f"this kernel has no symbol {name}")
        return self.symbols[name] - self.offset

    @property
    def offset(self) -> int:
        """Virtual minus physical address of the kernel's image."""
        return _HIGH_MAP


@lru_cache(maxsize=16)
def anatomy_of(image: KernelImage) -> Anatomy:
    """The anatomy of `image`, from the cache or worked out in about a second.

    Raises:
        DecodeError: the image has no kallsyms or no BTF, or lacks a type.
    """
    kept = image.path.with_name(_KEPT) if image.path.with_name("meta.json").exists() else None
    if kept is not None:
        try:
            return _from_json(json.loads(kept.read_text()))
        except (OSError, ValueError, TypeError, KeyError):
            pass
    with image.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as vmlinux:
        anatomy = read_anatomy(vmlinux)
    if kept is not None:
        staging = kept.with_name(f"{kept.name}.{os.getpid()}")
        try:
            staging.write_text(
                json.dumps(asdict(anatomy) | {"format": _FORMAT, "names": sorted(NAMES)}) + "\n"
            )
            staging.replace(kept)
        except OSError:
            staging.unlink(missing_ok=True)
    return anatomy


def _from_json(document: dict[str, Any]) -> Anatomy:
    if document.pop("format") != _FORMAT or document.pop("names") != sorted(NAMES):
        raise ValueError
    code = tuple((start, end) for start, end in document["code"])
    return Anatomy(**document | {"log": LogLayout(**document["log"]), "code": code})


def read_anatomy(vmlinux: bytes | mmap.mmap) -> Anatomy:
    """The anatomy of an uncompressed kernel image.

    Raises:
        DecodeError: as `anatomy_of`.
    """
    wanted = frozenset({"boot_params", "setup_header", "memblock", "memblock_type", "memblock_region"})
    types = btf_types(vmlinux, wanted).structs
    params, header, reserved = types["boot_params"], types["setup_header"], types["memblock_type"]
    sections = elf_sections(vmlinux)
    at, lookup = _field(types["memblock"], "reserved"), sections.get(".orc_lookup")
    return Anatomy(
        symbols=read_symbols(vmlinux, NAMES),
        log=read_log_layout(vmlinux),
        orc_lookup=lookup.size if lookup else 0,
        params={
            "e820_entries": _field(params, "e820_entries"),
            "e820_table": _field(params, "e820_table"),
            "ramdisk_image": _field(params, "hdr") + _field(header, "ramdisk_image"),
            "ramdisk_size": _field(params, "hdr") + _field(header, "ramdisk_size"),
        },
        reserved={name: at + _field(reserved, name) for name in ("cnt", "total_size", "regions")},
        region_size=types["memblock_region"].size,
        code=tuple(
            (
                align_down(s.address, PAGE_SIZE) - _HIGH_MAP,
                align_up(s.address + s.size, PAGE_SIZE) - _HIGH_MAP,
            )
            for name, s in sections.items()
            if name in _CODE_SECTIONS
        ),
    )


def _field(struct_: Struct, name: str) -> int:
    if name not in struct_.fields:
        raise DecodeError(f"no field {name}", path="btf.types", offset=0)
    return struct_.fields[name]


_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_LOAD = 1
_ENDBR64 = b"\xf3\x0f\x1e\xfa"
_ALLOCATOR_SIZE, _BIG = 192, 1 << 16
_INLINE = re.compile(b"\x31\xc0[\x48\x4c]\x89.[\x48\x4c]\x89.\xf3\xaa", re.DOTALL)
"""xor %eax,%eax; mov ...,%rdi; mov ...,%rcx; rep stosb"""
_JMP = b"\xe9"
_CALL, _NOP5, _RET = b"\xe8", b"\x0f\x1f\x44\x00\x00", b"\xc3"


def after_endbr(code: bytes) -> int:
    """Bytes of a leading ENDBR64."""
    return len(_ENDBR64) if code.startswith(_ENDBR64) else 0


class Patcher:
    """A copy of a kernel image whose functions can be changed."""

    def __init__(self, vmlinux: bytes, anatomy: Anatomy) -> None:
        self.image = bytearray(vmlinux)
        self._anatomy = anatomy
        (table,) = struct.unpack_from("<Q", vmlinux, 0x20)
        size, count = struct.unpack_from("<HH", vmlinux, 0x36)
        headers = [_PROGRAM_HEADER.unpack_from(vmlinux, table + size * i) for i in range(count)]
        self._segments: list[tuple[int, int, int]] = [(h[3], h[2], h[5]) for h in headers if h[0] == _LOAD]

    def body(self, name: str) -> int:
        """Virtual address of a function, a leading ENDBR64 skipped.

        Raises:
            ToolError: the kernel has no such function.
        """
        self._anatomy.physical(name)
        address = self._anatomy.symbols[name]
        return address + after_endbr(self._at(address, 4))

    def trap(self, name: str, port: int) -> None:
        """Make the start of a function write to I/O port `port`, and end the translation block there.

        Its place is the call of __fentry__, which does nothing until ftrace is set up.

        Raises:
            ToolError: the function has no such call.
        """
        address = self.body(name)
        slot = self._at(address, 5)
        if slot[:1] != _CALL and slot != _NOP5:
            raise ToolError(f"{name} of this kernel does not begin with a call of __fentry__")
        self.write(address, bytes([0xE6, port, 0xEB, 0x00, 0x90]))  # out %al,$port; jmp +0; nop

    def ends(self, name: str, port: int) -> None:
        """As `trap`, for a function that is not gone on with: any will do."""
        self.write(self.body(name), bytes([0xE6, port, 0xEB, 0x00]))

    def returns(self, name: str, value: int | None = None) -> None:
        """Make a function return at once, with `value` where one is given."""
        self.write(self.body(name), _RET if value is None else b"\xb8" + struct.pack("<I", value) + _RET)

    def zeroes_by(self, port: int, place: int) -> bool:
        """Let who answers at I/O port `port` zero what memblock gives away; False where the kernel is built
        in another way.

        Ranges of `_BIG` bytes and more are told by four writes of 32 bits: physical address and size, the low
        halves first. The kernel zeroes smaller ones, 8 bytes at a time where it takes single ones.

        Args:
            port: the I/O port.
            place: virtual address of room for 96 bytes of code.
        """
        symbols = self._anatomy.symbols
        if not symbols.keys() >= {ALLOCATOR, "memset", "page_offset_base"}:
            return False
        start = symbols[ALLOCATOR]
        code = self._at(start, _ALLOCATOR_SIZE)
        if (inline := _INLINE.search(code)) is not None:
            at, size, begin, end = inline.start(), len(inline[0]), inline[0][:-2], b""
        else:
            calls = (
                call.start()
                for call in re.finditer(b"\xe8", code[:-4])
                if start + call.end() + 4 + struct.unpack_from("<i", code, call.end())[0] == symbols["memset"]
            )
            if (found := next(calls, None)) is None:
                return False
            # memset(): push %rdi; mov %rdx,%rcx; xor %eax,%eax ... pop %rax
            at, size, begin, end = found, 5, b"\x57\x48\x89\xd1\x31\xc0", b"\x58"
        big = b"".join(
            (
                b"\x48\x89\xf8",  # mov %rdi,%rax
                b"\x48\x2b\x05",  # sub page_offset_base(%rip),%rax
            )
        )
        out = b"\xe7" + bytes([port])  # out %eax,$port
        send = out + b"\x48\xc1\xe8\x20" + out  # shr $32,%rax
        size_too = b"\x48\x89\xc8" + send  # mov %rcx,%rax
        told = big + bytes(4) + send + size_too + end + _RET
        small = b"\x89\xc8\x83\xe0\x07\x48\xc1\xe9\x03\x50\x31\xc0\xf3\x48\xab\x59\xf3\xaa" + end + _RET
        # mov %ecx,%eax; and $7,%eax; shr $3,%rcx; push %rax; xor %eax,%eax; rep stosq; pop %rcx; rep stosb
        choose = b"\x48\x81\xf9" + struct.pack("<I", _BIG) + b"\x73" + bytes([len(small)])  # cmp; jae
        stub = bytearray(begin + choose + small + told)
        operand = len(begin + choose + small + big)
        struct.pack_into("<i", stub, operand, symbols["page_offset_base"] - (place + operand + 4))
        self.write(place, bytes(stub))
        self.write(start + at, _CALL + struct.pack("<i", place - (start + at + 5)) + b"\x90" * (size - 5))
        return True

    def straighten(self) -> None:
        """Take out the calls of __fentry__, and let functions return by themselves, not by a thunk.

        The kernel does so itself once it patches its code, after memory is set up. The code that an oops
        prints is the only thing that tells.
        """
        symbols, image = self._anatomy.symbols, self.image
        if symbols.keys() >= {*_DETOURS}:
            start, stop = (symbols[name] for name in _DETOURS[1:3])
            at, size = self._offset(start), stop - start
            self._replace(
                struct.unpack_from(f"<{size // 8}Q", image, at), _CALL, symbols["__fentry__"], _NOP5
            )
        if "__x86_return_thunk" in symbols and (sites := elf_sections(bytes(image)).get(".return_sites")):
            offsets = struct.unpack_from(f"<{sites.size // 4}i", image, sites.offset)
            returns = [sites.address + 4 * i + offset for i, offset in enumerate(offsets)]
            self._replace(returns, _JMP, symbols["__x86_return_thunk"], _RET + b"\xcc" * 4)

    def _replace(self, addresses: Sequence[int], opcode: bytes, target: int, by: bytes) -> None:
        """`by` for every call of or jump to `target` at one of `addresses`."""
        image = self.image
        for start, offset, size in self._segments:
            for address in addresses:
                if _HIGH_MAP <= start <= address < start + size:
                    at = offset + address - start
                    if image[at : at + 5] == opcode + struct.pack("<i", target - (address + 5)):
                        image[at : at + 5] = by

    def write(self, address: int, code: bytes) -> None:
        """Change the image at a virtual address."""
        at = self._offset(address)
        self.image[at : at + len(code)] = code

    def _at(self, address: int, size: int) -> bytes:
        at = self._offset(address)
        return bytes(self.image[at : at + size])

    def _offset(self, address: int) -> int:
        for start, offset, size in self._segments:
            if start <= address < start + size:
                return offset + address - start
        raise ToolError(f"address {address:#x} is not in the kernel's file")
