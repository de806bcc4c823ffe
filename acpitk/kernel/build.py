"""What a kernel image says of its own build, for kernels other than the ones the rows were read from."""

from __future__ import annotations

import mmap
from dataclasses import replace

from acpitk.errors import DecodeError
from acpitk.kernel.policy import KernelBuild
from acpitk.ranges import PAGE_SIZE, align_up
from acpitk.vmlinux import btf_types, elf_sections

_KERNEL_MAP = 0xFFFFFFFF80000000
"""__START_KERNEL_map: image addresses are physical ones above it (asm/page_64_types.h)."""
_CACHE_LINE = 64


def build_of(vmlinux: bytes | mmap.mmap, nearest: KernelBuild) -> KernelBuild:
    """The build facts of `vmlinux`; what it does not tell is taken from `nearest`.

    Raises:
        DecodeError: not a vmlinux of x86-64 with BTF.
    """
    sections = elf_sections(vmlinux)
    try:
        text, brk = sections[".text"], sections[".brk"]
    except KeyError as error:
        raise DecodeError(f"no section {error.args[0]}", path="elf.sections", offset=0) from None
    structs = btf_types(vmlinux, frozenset({"pglist_data", "mem_section"})).structs
    node_data = structs["pglist_data"].size
    alignment = PAGE_SIZE if nearest.node_data % PAGE_SIZE == 0 else _CACHE_LINE
    start = brk.address - _KERNEL_MAP
    return replace(
        nearest,
        image_start=text.address - _KERNEL_MAP,
        brk_start=start,
        image_end=start + brk.size,
        node_data=align_up(node_data, alignment),
        sections_per_root=PAGE_SIZE // structs["mem_section"].size,
    )
