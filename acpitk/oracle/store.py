"""Oracle builds in the cache: made from Debian's packages or a tree, gated by real boots, found by name."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from acpitk.errors import ToolError, UsageError
from acpitk.kernel.policy import BUILDS, KernelBuild, KernelPolicy, nearest_policy
from acpitk.oracle.build import WORKER, Tree, check_tree, compile_worker
from acpitk.oracle.client import Worker
from acpitk.oracle.gate import first_difference, recording
from acpitk.qemu.image import SUITES, Apt, cache_dir, find_kernel

_KERNEL_MAP = 0xFFFFFFFF80000000
"""__START_KERNEL_map (asm/page_64_types.h)."""
_NEEDED = re.compile(
    r"(?:arch/x86|drivers/(?:acpi|base|pci)|scripts/dtc)/.*\.[chS]|(?!arch|drivers|tools|scripts|sound).*\.[chS]"
)
"""Files of a source tree that files of the oracle may include, and they themselves."""
_UTSRELEASE = re.compile(r'#define UTS_RELEASE "([^"]+)"')
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")
_PREPARED = (
    "include/generated/asm-offsets.h", "include/generated/utsrelease.h",
    "arch/x86/include/generated/uapi/asm",
)  # fmt: skip
_OPTIONS = ("CONFIG_X86_64", "CONFIG_NUMA", "CONFIG_ACPI_NUMA", "CONFIG_SPARSEMEM_VMEMMAP")
"""Without these there is nothing to ask."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleBuild:
    """A build in the cache.

    Args:
        name: what it is called, `v6.1` or the name given to a tree.
        path: the worker program.
        release: the kernel's release, from its headers.
        row: the row of the model it is compared with.
        gated: recorded boots it repeated; 0 where none are recorded of that release.
    """

    name: str
    path: Path
    release: str
    row: str
    gated: int

    @property
    def build(self) -> KernelBuild:
        """What its image is like: the one behind the row."""
        return BUILDS[self.row]

    def worker(self) -> Worker:
        """A new worker process of it."""
        return Worker(self.path, self.build)


def list_oracles() -> tuple[OracleBuild, ...]:
    """The builds that can be used, by name."""
    return tuple(build for name in oracle_names() if (build := _stored(name)) is not None)


def oracle_names() -> tuple[str, ...]:
    """What was built, builds of other versions of acpitk among it."""
    root = _root()
    found = (path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else ()
    return tuple(sorted(filter(_NAME.fullmatch, found)))


def remedy(name: str) -> str:
    """The command that builds that oracle."""
    tree = "acpitk oracle build --source TREE"
    return f"acpitk oracle build {name}" if name in SUITES else f"{tree} --name {shlex.quote(name)}"


def verify_oracle(build: OracleBuild) -> None:
    """Compare the worker's checksum with the one it was built with.

    Raises:
        ToolError: it is missing or is not what was built.
    """
    try:
        wanted = json.loads((build.path.parent / "meta.json").read_text())["sha256"]
        found = hashlib.sha256(build.path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError) as error:
        raise ToolError(f"{build.path}: {getattr(error, 'strerror', None) or 'no checksum'}") from None
    if found != wanted:
        raise ToolError(f"{build.path} is damaged: its checksum is not that of the build")


def find_oracle(name: str) -> OracleBuild:
    """The build of that name.

    Raises:
        UsageError: not a name that a build can have.
        ToolError: there is none, or it was built by another version of acpitk.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of an oracle")
    if (build := _stored(name)) is not None:
        return build
    state = "was built by another version of acpitk" if (_root() / name).exists() else "is not built"
    raise ToolError(f"oracle {name} {state}: run: {remedy(name)}")


def build_packaged(name: str, *, progress: Say = lambda _: None) -> OracleBuild:
    """Build the oracle of Debian's kernel `name` from its source and headers packages.

    The version is that of the fetched kernel image, so that boots of it and the oracle compare.

    Raises:
        UsageError: no kernel is called that.
        ToolError: the image is not fetched, a package is missing, or the build fails its gate.
    """
    if name not in SUITES:
        raise UsageError(f"no kernel is called {name!r}; known: {', '.join(SUITES)}; or give --source TREE")
    release = find_kernel(name).version
    _root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache_dir()) as directory:
        tree = _unpack(name, release, Path(directory), progress)
        return _build(name, tree, nearest_policy(name), progress)


def build_tree(source: Path, headers: Sequence[Path], name: str | None, *, progress: Say) -> OracleBuild:
    """Build the oracle of a kernel tree; it is called `name`, or by its release.

    Raises:
        ToolError: what the tree lacks, a file does not compile, or the build fails its gate.
        UsageError: a name that no build can have, or a kernel older than the model.
    """
    tree = Tree(source=source.resolve(), headers=tuple(path.resolve() for path in headers))
    configured = check_tree(tree)
    check_prepared(configured)
    release = _release(configured)
    name = name or release
    if not _NAME.fullmatch(name) or name in SUITES:
        raise UsageError(f"--name {name!r}: use letters, digits and .+-_, and none of {', '.join(SUITES)}")
    return _build(name, tree, nearest_policy(release), progress)


def check_prepared(headers: Path) -> None:
    """That the configuration has NUMA in it and `make prepare` came to its end.

    Raises:
        ToolError: what is missing, and how to get it.
    """
    for name in _PREPARED:
        if not (headers / name).exists():
            raise ToolError(f"{headers} has no {name}: run: make -C {headers} prepare")
    autoconf = headers / "include/generated/autoconf.h"
    try:
        on = re.findall(r"^#define (CONFIG_\w+) 1$", autoconf.read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{autoconf}: {getattr(error, 'strerror', None) or 'is not text'}") from None
    if off := [name for name in _OPTIONS if name not in on]:
        raise ToolError(f"{headers} is configured without {', '.join(off)}: turn it on, and run make prepare")


def _unpack(name: str, release: str, root: Path, progress: Say) -> Tree:
    apt = Apt(root, SUITES[name])
    progress(f"reading the package lists of {', '.join(SUITES[name])}")
    apt.run("apt-get", "update")
    headers = f"linux-headers-{release}"
    try:
        shown = apt.run("apt-cache", "show", "--no-all-versions", headers)
    except ToolError:
        shown = ""
    version = re.search(r"^Version: (\S+)$", shown, re.MULTILINE)
    if version is None:
        raise ToolError(
            f"the mirror has no {headers} any more: delete {cache_dir() / 'kernels' / name}, "
            f"then run: acpitk kernel fetch {name}"
        )
    common = re.sub(r"-(?:cloud-)?amd64$", "-common", headers)
    for package in (headers, common, f"linux-source-{name[1:]}"):
        progress(f"downloading {package} {version[1]}")
        apt.run("apt-get", "download", f"{package}={version[1]}")
    for deb in sorted(apt.root.glob("*.deb")):
        progress(f"unpacking {deb.name}")
        apt.run("dpkg-deb", "-x", str(deb), str(apt.root / "x"))
    src = apt.root / "x" / "usr" / "src"
    source = src / f"linux-source-{name[1:]}"
    (archive,) = src.glob("linux-source-*.tar.xz")
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            if _NEEDED.fullmatch(member.name.partition("/")[2]):
                tar.extract(member, src, filter="data")
    return Tree(source=source, headers=(src / headers,))


def _build(name: str, tree: Tree, row: KernelPolicy, progress: Say) -> OracleBuild:
    root = _root()
    root.mkdir(parents=True, exist_ok=True)
    release = _release(check_tree(tree))
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        worker = staging / WORKER
        compile_worker(tree, _symbols(BUILDS[row.name]), worker, progress=progress)
        gated = _gate(worker, release, row, progress)
        meta = {"release": release, "row": row.name, "gated": gated, "shim": _shim_digest()}
        meta["sha256"] = hashlib.sha256(worker.read_bytes()).hexdigest()
        (staging / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        staging.chmod(0o755)
        target = root / name
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except OSError as error:
        raise ToolError(f"cannot write {root}: {error.strerror}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return find_oracle(name)


def _gate(worker: Path, release: str, row: KernelPolicy, progress: Say) -> int:
    recorded = recording(row.name)
    with Worker(worker, BUILDS[row.name]) as process:
        if recorded is None or not _same_release(recorded.release, release):
            of = "none" if recorded is None else recorded.release
            progress(f"not gated: boots are recorded of {of}, and this is {release}")
            return 0
        for number, boot in enumerate(recorded.boots, 1):
            if difference := first_difference(boot, process):
                raise ToolError(f"the build fails its gate: recorded boot {number}: {difference}")
    progress(f"gated: {len(recorded.boots)} recorded boots of {recorded.release} repeated line for line")
    return len(recorded.boots)


def _same_release(recorded: str, built: str) -> bool:
    """Of one stable series and configuration: `6.1.0-56-cloud-amd64` and `6.1.0-57-cloud-amd64`."""
    flavour = re.compile(r"^(\d+\.\d+)\b.*?(-[a-z].*)?$")
    one, other = flavour.match(recorded), flavour.match(built)
    return one is not None and other is not None and one.groups() == other.groups()


def _symbols(build: KernelBuild) -> dict[str, int]:
    """Symbols that the kernel's linker script defines, at the addresses of the image."""
    start, end = _KERNEL_MAP + build.image_start, _KERNEL_MAP + build.brk_start
    low = ("_text", "_stext", "_etext", "_sdata", "_edata", "__start_rodata", "__end_rodata", "__bss_start")
    return {
        **dict.fromkeys(low, start),
        **dict.fromkeys(("__bss_stop", "__end_of_kernel_reserve", "__brk_base"), end),
        **dict.fromkeys(("__brk_limit", "_end"), _KERNEL_MAP + build.image_end),
        "real_mode_blob": 0x1000,
        "real_mode_blob_end": 0x1000 + build.trampoline,
    }


def _release(headers: Path) -> str:
    try:
        text = (headers / "include" / "generated" / "utsrelease.h").read_text()
    except OSError as error:
        raise ToolError(f"{headers}/include/generated/utsrelease.h: {error.strerror}") from None
    if match := _UTSRELEASE.search(text):
        return match[1]
    raise ToolError(f"{headers}/include/generated/utsrelease.h names no release")


def _shim_digest() -> str:
    """What the worker was built with, so that one of another version of acpitk is not used."""
    digest = hashlib.sha256()
    for path in sorted((files("acpitk.oracle") / "shim").iterdir(), key=lambda each: each.name):
        digest.update(path.read_bytes())
    digest.update((files("acpitk.oracle") / "build.py").read_bytes())
    return digest.hexdigest()


def _stored(name: str) -> OracleBuild | None:
    directory = _root() / name
    try:
        meta = json.loads((directory / "meta.json").read_text())
        if meta["shim"] != _shim_digest() or meta["row"] not in BUILDS:
            return None
        return OracleBuild(
            name=name,
            path=directory / WORKER,
            release=str(meta["release"]),
            row=meta["row"],
            gated=int(meta["gated"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _root() -> Path:
    return cache_dir() / "oracles"
