"""Kernel images: fetch Debian's by name, unpack any bzImage, keep the vmlinux files in a cache."""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import mmap
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lz4.block
import zstandard

from acpitk.errors import DecodeError, ToolError, UsageError
from acpitk.ranges import MIB

PAYLOAD_MAX = 512 * MIB
"""Bytes a kernel may unpack to; today's are 50 to 70 MiB."""
SUITES: Mapping[str, tuple[str, ...]] = {
    "v5.10": ("bullseye",),
    "v6.1": ("bookworm", "bookworm-security"),
    "v6.12": ("trixie", "trixie-security"),
    "v7.3": ("trixie-backports",),
}
"""Debian suites each kernel is taken from."""

_ZSTD_WINDOW_MAX = 1 << 27
"""The window of `zstd -22 --ultra`, which kernel builds use."""
_META_PACKAGE = "linux-image-cloud-amd64"
_CONCRETE = re.compile(r"\blinux-(?:image|binary)-[0-9][\w.+~-]*-cloud-amd64\b")
_BANNER = re.compile(rb"Linux version ([0-9]+\.[0-9]+[\w.+~-]*) \(")
_INDEX_FORMAT = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A bootable kernel.

    Args:
        name: the name it was fetched under (`v6.1`), or its release where it came from a path.
        path: the uncompressed vmlinux (ELF).
        version: the release its banner states, `6.1.0-56-cloud-amd64`.
    """

    name: str
    path: Path
    version: str

    @property
    def vmlinuz(self) -> Path:
        """The bzImage it was unpacked from, which places itself at random (KASLR).

        Raises:
            ToolError: only the vmlinux is here.
        """
        if (path := self.path.with_name("vmlinuz")).is_file() and _meta(path.parent) is not None:
            return path
        how = f"run: acpitk kernel fetch {self.name}" if self.name in SUITES else "give the vmlinuz"
        raise ToolError(f"kernel {self.name}: only its vmlinux is here, and KASLR is in the vmlinuz: {how}")


def cache_dir() -> Path:
    """Where acpitk keeps what it downloads: $ACPITK_CACHE, else acpitk under the XDG cache directory."""
    if own := os.environ.get("ACPITK_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acpitk"


def list_kernels() -> tuple[KernelImage, ...]:
    """The fetched kernels, in `SUITES` order."""
    return tuple(image for name in SUITES if (image := _cached(name)) is not None)


def find_kernel(spec: str) -> KernelImage:
    """The kernel `spec` names: a fetched kernel, or the path of a vmlinuz (bzImage) or vmlinux.

    Raises:
        ToolError: a known name that was not fetched, or a cached file that is damaged.
        UsageError: neither a name nor a readable kernel.
        DecodeError: the file is not a kernel that can be unpacked.
    """
    if spec in SUITES:
        if (image := _cached(spec)) is None:
            raise ToolError(f"kernel {spec} is not here: run: acpitk kernel fetch {spec}")
        return image
    path = Path(spec)
    try:
        data = path.read_bytes()
    except OSError as error:
        names = ", ".join(SUITES)
        raise UsageError(f"{spec!r} is not a kernel file ({error.strerror}) nor one of {names}") from None
    if data[:4] == b"\x7fELF":
        release = banner(data)
        return KernelImage(release, path.resolve(), release)
    vmlinux = extract_vmlinux(data)
    return _store(f"sha256-{hashlib.sha256(data).hexdigest()}", vmlinux, vmlinuz=data, package=str(path.name))


def verify(image: KernelImage) -> None:
    """Read a cached kernel back and compare it with the checksum taken when it was stored.

    Raises:
        ToolError: they differ, or there is no record.
    """
    meta = _meta(image.path.parent)
    if meta is None or meta.get("sha256") != hashlib.sha256(image.path.read_bytes()).hexdigest():
        raise ToolError(f"{image.path} is damaged: run: acpitk kernel fetch {image.name}")


def fetch(name: str, *, progress: Callable[[str], None] = lambda _: None) -> KernelImage:
    """Download Debian's kernel `name` with the system's apt and mirror, unpack it, cache the vmlinux.

    Nothing is installed, and apt's own state is not touched: lists and packages live in a temporary
    directory. `progress` gets one line per step. A kernel already cached, vmlinuz included, is returned at
    once.

    Raises:
        UsageError: `name` is not in `SUITES`.
        ToolError: no apt, no Debian mirror in its configuration, or a step failed.
    """
    if name not in SUITES:
        raise UsageError(f"no kernel is called {name!r}; known: {', '.join(SUITES)}")
    if (image := _complete(name)) is not None:
        return image
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ToolError(
                f"{tool} is not here, and kernels are fetched with apt: give a kernel by its path instead"
            )
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache_dir()) as directory:
        apt = Apt(Path(directory), SUITES[name])
        progress(f"reading the package lists of {', '.join(SUITES[name])}")
        apt.run("apt-get", "update")
        package = apt.concrete_package()
        progress(f"downloading {package}")
        apt.run("apt-get", "download", package)
        (deb,) = apt.root.glob("*.deb")
        progress(f"unpacking {deb.name}")
        apt.run("dpkg-deb", "-x", str(deb), str(apt.root / "x"))
        images = [*apt.root.glob("x/boot/vmlinuz-*"), *apt.root.glob("x/usr/lib/modules/*/vmlinuz")]
        if not images:
            raise ToolError(f"package {package} has no vmlinuz in it")
        vmlinuz = images[0].read_bytes()
        vmlinux = extract_vmlinux(vmlinuz)
    release = banner(vmlinux)
    if not re.match(rf"{re.escape(name[1:])}(?!\d)", release):
        raise ToolError(f"{SUITES[name][0]} no longer has {name}: its {package} is Linux {release}")
    return _store(name, vmlinux, vmlinuz=vmlinuz, package=package)


class Apt:
    """apt with its own sources, lists and cache under `root`."""

    def __init__(self, root: Path, suites: tuple[str, ...]) -> None:
        self.root = root
        for directory in ("lists/partial", "cache/archives/partial", "etc"):
            (root / directory).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources.list").write_text(_sources(suites))
        options = {
            "Dir::Etc::sourcelist": root / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::Lists": root / "lists",
            "Dir::State::status": root / "status",
            "Dir::Cache": root / "cache",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        self._options = [argument for key, value in options.items() for argument in ("-o", f"{key}={value}")]

    def run(self, tool: str, *arguments: str) -> str:
        """One step, its standard output; a failure is one line."""
        options = self._options if tool.startswith("apt") else []
        return _run([tool, *options, *arguments], cwd=self.root)

    def concrete_package(self) -> str:
        """The package that holds the image: the meta package's dependencies, followed to their end."""
        package = _META_PACKAGE
        for _ in range(4):
            shown = self.run("apt-cache", "show", "--no-all-versions", package)
            depends = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
            found = _CONCRETE.search(depends[1]) if depends else None
            if found is None or found[0] == package:
                return package
            package = found[0]
        return package


def _sources(suites: tuple[str, ...]) -> str:
    """A sources.list for `suites` on the mirrors the system's own apt uses."""
    listing = _run(["apt-get", "indextargets", "--format", _INDEX_FORMAT], cwd=Path("/"))
    mirrors: dict[bool, str] = {}
    for line in listing.splitlines():
        origin, codename, uri = line.split("|", 2)
        if origin == "Debian":
            mirrors.setdefault(codename.endswith("-security"), uri)
    if False not in mirrors:
        raise ToolError("apt has no Debian mirror in its configuration: give a kernel by its path instead")
    option = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    return "".join(
        f"deb {option}{mirrors[security]} {suite} main\n"
        for suite in suites
        if (security := suite.endswith("-security")) in mirrors
    )


def _run(argv: list[str], *, cwd: Path) -> str:
    try:
        done = subprocess.run(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{argv[0]} did not finish in 15 minutes") from None
    except OSError as error:
        raise ToolError(f"{argv[0]}: {error.strerror}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg-deb: error"))]
        raise ToolError(f"{argv[0]} failed: {(lines or ['exit status ' + str(done.returncode)])[0]}")
    return done.stdout


def banner(vmlinux: bytes | mmap.mmap) -> str:
    """The release in the kernel's `Linux version ... (` banner.

    Raises:
        DecodeError: there is none.
    """
    if match := _BANNER.search(vmlinux):
        return match[1].decode()
    raise DecodeError("no 'Linux version' banner: not a Linux kernel", path="vmlinux", offset=0)


def _entry(key: str) -> Path:
    return cache_dir() / "kernels" / key


def _meta(directory: Path) -> dict[str, str | int] | None:
    try:
        meta = json.loads((directory / "meta.json").read_text())
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


def _cached(key: str) -> KernelImage | None:
    directory = _entry(key)
    if (meta := _meta(directory)) is None:
        return None
    path = directory / "vmlinux"
    if not path.is_file() or path.stat().st_size != meta.get("size"):
        return None
    return KernelImage(str(meta.get("name")), path, str(meta.get("version")))


def _complete(key: str) -> KernelImage | None:
    image = _cached(key)
    return image if image is not None and image.path.with_name("vmlinuz").is_file() else None


def _store(key: str, vmlinux: bytes, *, vmlinuz: bytes, package: str) -> KernelImage:
    if (image := _complete(key)) is not None:
        return image
    release = banner(vmlinux)
    target = _entry(key)
    target.parent.mkdir(parents=True, exist_ok=True)
    name = key if key in SUITES else release
    meta = {"name": name, "package": package, "version": release, "size": len(vmlinux)}
    meta["sha256"] = hashlib.sha256(vmlinux).hexdigest()
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        (staging / "vmlinux").write_bytes(vmlinux)
        (staging / "vmlinuz").write_bytes(vmlinuz)
        (staging / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        staging.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if (image := _cached(key)) is not None:  # another process was first
            return image
        raise ToolError(f"cannot write the kernel cache {target}: {error.strerror}") from None
    return KernelImage(name, target / "vmlinux", release)


def extract_vmlinux(data: bytes) -> bytes:
    """The uncompressed vmlinux ELF inside an x86 bzImage (Documentation/arch/x86/boot.rst, payload_offset).

    Raises:
        DecodeError: not a bzImage with a payload, or the payload does not unpack to an ELF within
            `PAYLOAD_MAX` bytes.
    """
    if len(data) < 0x250 or data[0x202:0x206] != b"HdrS":
        raise DecodeError("no HdrS magic: not an x86 bzImage", path="bzImage.header", offset=0x202)
    (version,) = struct.unpack_from("<H", data, 0x206)
    if version < 0x208:
        raise DecodeError(f"boot protocol {version:#x} has no payload", path="bzImage.version", offset=0x206)
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1F1] or 4) * 512 + 512 + offset
    payload = data[start : start + length]
    if not payload or len(payload) != length:
        raise DecodeError(
            f"payload {start:#x}+{length:#x} is not inside the {len(data)} bytes of the file",
            path="bzImage.payload_length",
            offset=0x24C,
        )
    vmlinux = _decompress(payload, start)
    if vmlinux[:4] != b"\x7fELF":
        raise DecodeError("the payload is not an ELF file", path="bzImage.payload", offset=start)
    return vmlinux


def _decompress(payload: bytes, offset: int) -> bytes:
    """Unpack by magic; the last u32 is the unpacked size (size_append in scripts/Makefile.lib, or gzip's)."""
    for magic, unpack in _FORMATS:
        if payload.startswith(magic):
            try:
                out = unpack(payload)
            except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
                problem = f"the payload does not unpack: {error}"
            except (lz4.block.LZ4BlockError, zstandard.ZstdError, MemoryError) as error:
                problem = f"the payload does not unpack: {error}"
            else:
                recorded = int.from_bytes(payload[-4:], "little")
                if unpack is _raw or len(out) == recorded <= PAYLOAD_MAX:
                    return out
                problem = f"the payload unpacks to {len(out)} bytes and records {recorded}"
                if len(out) > PAYLOAD_MAX:
                    problem = f"the payload unpacks to more than {PAYLOAD_MAX} bytes"
            raise DecodeError(problem, path="bzImage.payload", offset=offset)
    raise DecodeError(
        f"unknown compression, first bytes {payload[:6].hex()}", path="bzImage.payload", offset=offset
    )


def _lz4_legacy(payload: bytes) -> bytes:
    """LZ4's legacy frame: magic, then blocks of u32 size and data."""
    out, at = bytearray(), 4
    while at + 4 < len(payload) and len(out) <= PAYLOAD_MAX:
        (size,) = struct.unpack_from("<I", payload, at)
        at += 4
        if not 0 < size <= len(payload) - at:
            raise ValueError(f"LZ4 block of {size} bytes with {len(payload) - at} left")
        out += lz4.block.decompress(payload[at : at + size], uncompressed_size=8 * MIB)
        at += size
    return bytes(out)


def _zstd(payload: bytes) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX).stream_reader(payload) as reader:
        return reader.read(PAYLOAD_MAX + 1)


def _gzip(payload: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload, PAYLOAD_MAX + 1)


def _raw(payload: bytes) -> bytes:
    return payload


_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x02\x21\x4c\x18", _lz4_legacy),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\xfd7zXZ\0", lambda p: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(p, PAYLOAD_MAX + 1)),
    (b"\x1f\x8b", _gzip),
    (b"BZh", lambda p: bz2.BZ2Decompressor().decompress(p, PAYLOAD_MAX + 1)),
    (b"\x5d\0\0", lambda p: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(p, PAYLOAD_MAX + 1)),
    (b"\x7fELF", _raw),
)
"""Magic bytes and decoder of every compression a kernel build offers for x86 (LZO aside)."""
