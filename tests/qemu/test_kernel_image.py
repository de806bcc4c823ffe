"""Unpacking kernels, and the cache they are kept in."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import DecodeError, ToolError, UsageError
from acpitk.qemu import image
from acpitk.ranges import MIB

BANNER = b"Linux version 6.1.0-1-test (someone@somewhere) #1 SMP\n"
VMLINUX = b"\x7fELF\2\1" + bytes(5000) + BANNER + bytes(range(256)) * 40


def lz4_legacy(data: bytes) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 * MIB):
        block = lz4.block.compress(data[at : at + 8 * MIB], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4_legacy,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "zstd-stream": lambda data: (c := zstandard.ZstdCompressor().compressobj()).compress(data) + c.flush(),
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "none": lambda data: data,
}


def bzimage(payload: bytes, *, sectors: int = 4, offset: int = 0x100, version: int = 0x20F) -> bytes:
    head = bytearray((sectors + 1) * 512 + offset)
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<II", head, 0x248, offset, len(payload))
    return bytes(head) + payload + bytes(64)


def packed(name: str, data: bytes) -> bytes:
    """As the kernel build does it: the compressed data and, except for raw data, its size as a u32."""
    return FORMATS[name](data) + (struct.pack("<I", len(data)) if name != "none" else b"")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [0, 9 * MIB])
def test_every_compression_unpacks(name: str, size: int) -> None:
    vmlinux = VMLINUX + b"\0\1\2\3" * (size // 4)
    unpacked = image.extract_vmlinux(bzimage(packed(name, vmlinux)))
    assert unpacked == vmlinux


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "none"])
@given(data=st.data())
def test_a_damaged_payload_is_one_clear_error_or_another_elf(name: str, data: st.DataObject) -> None:
    payload = bytearray(packed(name, VMLINUX))
    at = data.draw(st.integers(0, len(payload) - 1))
    if data.draw(st.booleans()):
        payload[at] ^= data.draw(st.integers(1, 255))
    else:
        del payload[at:]
    with contextlib.suppress(DecodeError):
        assert len(image.extract_vmlinux(bzimage(bytes(payload)))) == len(VMLINUX)


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(DecodeError):
        image.extract_vmlinux(data)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_a_payload_outside_the_file_is_refused(offset: int, length: int) -> None:
    data = bytearray(bzimage(VMLINUX))
    struct.pack_into("<II", data, 0x248, offset, length)
    with contextlib.suppress(DecodeError):
        assert image.extract_vmlinux(bytes(data)).startswith(b"\x7fELF")


def test_an_old_boot_protocol_has_no_payload() -> None:
    with pytest.raises(DecodeError, match="boot protocol"):
        image.extract_vmlinux(bzimage(VMLINUX, version=0x207))


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "none"])
def test_unpacking_stops_at_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "PAYLOAD_MAX", MIB)
    with pytest.raises(DecodeError, match="more than 1048576"):
        image.extract_vmlinux(bzimage(packed(name, VMLINUX + bytes(12 * MIB))))


def test_a_bzimage_by_path_is_unpacked_once(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "vmlinuz, with: odd name"
    path.write_bytes(bzimage(packed("xz", VMLINUX)))
    found = image.find_kernel(str(path))
    assert found.version == found.name == "6.1.0-1-test"
    assert found.path.read_bytes() == VMLINUX
    assert re.fullmatch(r"[\w/.-]+", str(found.path.relative_to(own_cache)))
    stamp = found.path.stat().st_mtime_ns
    assert image.find_kernel(str(path)) == found
    assert found.path.stat().st_mtime_ns == stamp
    image.verify(found)
    found.path.write_bytes(VMLINUX[:-1] + b"x")
    with pytest.raises(ToolError, match="damaged"):
        image.verify(found)


def test_a_cached_file_cut_short_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(packed("zstd", VMLINUX)))
    found = image.find_kernel(str(path))
    found.path.write_bytes(b"")
    assert image.find_kernel(str(path)).path.read_bytes() == VMLINUX


def test_an_elf_by_path_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(VMLINUX)
    assert image.find_kernel(str(path)) == image.KernelImage("6.1.0-1-test", path, "6.1.0-1-test")


def test_what_is_not_a_kernel_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(DecodeError, match="Linux version"):
        image.find_kernel(str(path))
    for spec in ("v9.9", str(tmp_path), "../v6.1", ""):
        with pytest.raises(UsageError, match="not a kernel"):
            image.find_kernel(spec)


def test_a_kernel_that_was_not_fetched_says_how_to() -> None:
    assert image.list_kernels() == ()
    with pytest.raises(ToolError, match=r"run: acpitk kernel fetch v6\.1"):
        image.find_kernel("v6.1")
    with pytest.raises(UsageError, match=r"known: v5\.10"):
        image.fetch("v9.9")


def test_without_apt_fetching_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="apt-get is not here"):
        image.fetch("v6.1")
