"""Compile a kernel tree's own early NUMA code into a worker process.

Whole, unmodified kernel files are compiled with the kernel's flags against its configured headers and linked
with the project's shim (`shim/`). What the linker keeps is what `setup_arch()` reaches; every symbol it then
misses becomes a stub that ends the run and names itself, those of `shim/quiet` and `ZERO` aside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from acpitk.errors import ToolError

WORKER = "worker"
ROOTS = ("setup_arch", "mm_core_init_early")


ZERO = {
    "ROOT_DEV": 8, "__cpu_online_mask": 1024, "__cpu_possible_mask": 1024, "__per_cpu_offset": 65536,
    "__preempt_count": 8, "cpu_number": 8, "current_task": 8, "pcpu_hot": 64, "const_current_task": 8,
    "const_pcpu_hot": 64, "this_cpu_off": 8,
    "initrd_start": 8, "initrd_end": 8, "phys_initrd_start": 8, "phys_initrd_size": 8, "root_mountflags": 8,
    "pgd_lock": 64, "sme_me_mask": 8, "xen_domain_type": 8, "disable_apic": 8,
    "boot_cpu_physical_apicid": 8, "smp_found_config": 8, "cpu_caps_set": 256, "cpu_caps_cleared": 256,
    "jiffies": 8, "oops_in_progress": 8, "console_loglevel": 8, "__num_online_cpus": 8,
    "x86_cpu_to_apicid_early_ptr": 8, "x86_cpu_to_acpiid_early_ptr": 8, "x86_cpu_to_apicid": 8,
    "x86_cpu_to_acpiid": 8, "highest_memmap_pfn": 8, "boot_cpu_apic_version": 8, "sysctl_min_slab_ratio": 8,
}  # fmt: skip
"""Variables, with a size that is enough, that start as zeros here."""

GLOBAL = ("init_unavailable_range", "zone_movable_pfn", "numa_distance_cnt", "numa_distance")
"""Static symbols the shim refers to."""

_INCLUDES = (
    "{s}/arch/x86/include", "{h}/arch/x86/include/generated", "{s}/include", "{h}/include",
    "{s}/arch/x86/include/uapi", "{h}/arch/x86/include/generated/uapi", "{s}/include/uapi",
    "{h}/include/generated/uapi",
)  # fmt: skip
_UNDEFINED = re.compile(r"undefined reference to [`']([\w.]+)'")
_GENERATED = {"oracle_nodata_names", "oracle_nodata_count"}
_NODATA = 4096
_TIMEOUT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Where a kernel's files are.

    Args:
        source: the source tree.
        headers: directories with the configured headers (`include/generated/autoconf.h`,
            `arch/x86/include/generated`); the source tree itself where it was configured in place.
    """

    source: Path
    headers: tuple[Path, ...]


def _words(name: str) -> tuple[str, ...]:
    """A list of `shim/`."""
    lines = (files("acpitk.oracle") / "shim" / name).read_text().splitlines()
    return tuple(word for line in lines if not line.startswith("#") for word in line.split())


def check_tree(tree: Tree) -> Path:
    """The directory of configured headers.

    Raises:
        ToolError: what is missing, and how to get it.
    """
    for needed in ("arch/x86/kernel/setup.c", "mm/memblock.c", "drivers/acpi/numa/srat.c"):
        if not (tree.source / needed).is_file():
            raise ToolError(f"{tree.source} is not a Linux source tree: it has no {needed}")
    wanted = ("include/generated/autoconf.h", "include/generated/bounds.h", "arch/x86/include/generated/asm")
    for directory in (*tree.headers, tree.source):
        if all((directory / name).exists() for name in wanted):
            return directory
    if (tree.source / ".config").is_file():
        raise ToolError(
            f"{tree.source} has a .config, but no generated headers: run: make -C {tree.source} prepare"
        )
    raise ToolError(
        f"no configured headers ({wanted[0]}): give --headers, or configure the tree: "
        f"make -C {tree.source} x86_64_defconfig prepare"
    )


def compile_worker(
    tree: Tree, symbols: dict[str, int], target: Path, *, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Build the worker of `tree` at `target`.

    Args:
        symbols: addresses of the kernel image's own symbols (`_text`, `_end`, `__brk_base` ...).

    Raises:
        ToolError: something is missing, or a file does not compile or link.
    """
    headers = check_tree(tree)
    for tool in ("gcc", "ld", "objcopy", "readelf"):
        if shutil.which(tool) is None:
            raise ToolError(f"{tool} is not here: install gcc and binutils")
    with as_file(files("acpitk.oracle") / "shim") as shim, tempfile.TemporaryDirectory() as work:
        build = _Build(tree.source, headers, Path(shim), Path(work))
        sources = [name for name in _words("sources") if (tree.source / name).is_file()]
        progress(f"compiling {len(sources)} files of {tree.source}")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(build.kernel_object, sources))
            objects[:0] = pool.map(build.shim_object, ("worker.c", "shim.c"))
        progress("linking")
        build.link(objects, symbols, target)


class _Build:
    def __init__(self, source: Path, headers: Path, shim: Path, work: Path) -> None:
        self.source, self.headers, self.shim, self.work = source, headers, shim, work
        includes = [f"-I{i.format(s=source, h=headers)}" for i in _INCLUDES]
        always = [
            path
            for name in ("compiler-version.h", "kconfig.h", "compiler_types.h")
            if (path := source / "include/linux" / name).is_file()
        ]
        own = _run(["gcc", "-print-file-name=include"]).strip()
        self.flags = [
            "-nostdinc", "-isystem", own, *includes, *(f"-include{path}" for path in always),
            f"-include{shim / 'before.h'}",
            *_words("flags"), f"-fmacro-prefix-map={source}/=",
        ]  # fmt: skip

    def kernel_object(self, name: str) -> Path:
        stem = Path(name).stem.replace("-", "_")
        defines = [
            f'-DKBUILD_BASENAME="{stem}"', f'-DKBUILD_MODNAME="{stem}"', f'-DKBUILD_MODFILE="{name}"',
            f"-D__KBUILD_MODNAME=kmod_{stem}", f"-I{(self.source / name).parent}",
        ]  # fmt: skip
        if name.endswith(".S"):
            defines.append("-D__ASSEMBLY__")
        target = self.work / (name.replace("/", "_") + ".o")
        self._compile(self.source / name, target, [*self.flags, *defines])
        exported = [f"--globalize-symbol={symbol}" for symbol in GLOBAL]
        _run(["objcopy", *exported, str(target)])
        return target

    def shim_object(self, name: str) -> Path:
        target = self.work / f"oracle_{Path(name).stem}.o"
        flags = [
            *self.flags,
            '-DKBUILD_MODNAME="oracle"',
            '-DKBUILD_BASENAME="oracle"',
            f"-I{self.shim}",
            f"-I{self.source}/drivers/acpi/acpica",
        ]
        if name == "worker.c":
            flags = [f for f in _words("flags") if not f.startswith(("-D", "-w"))] + [
                "-ffreestanding",
                "-Wall",
            ]
        self._compile(self.shim / name, target, flags)
        return target

    def _compile(self, source: Path, target: Path, flags: Sequence[str]) -> None:
        _run(["gcc", *flags, "-c", "-o", str(target), str(source)], cwd=self.source)

    def _roots(self, objects: Sequence[Path]) -> list[str]:
        defined = set(_run(["nm", "--defined-only", "-jA", *map(str, objects)]).split())
        return [root for root in ROOTS if any(line.endswith(f":{root}") for line in defined)]

    def link(self, objects: Sequence[Path], symbols: dict[str, int], target: Path) -> None:
        argv = [
            "ld", "-static", "-nostdlib", "--gc-sections", "-z", "muldefs", "-z", "norelro",
            "-z", "noexecstack", "--no-warn-rwx-segments", "-T", str(self.shim / "kernel.ld"),
            "--wrap=initmem_init", "--wrap=acpi_boot_table_init",
            *(f"--undefined={root}" for root in self._roots(objects)),
            *(f"--defsym={name}={value:#x}" for name, value in symbols.items()),
        ]  # fmt: skip
        first = subprocess.run(
            [*argv, "--warn-unresolved-symbols", "-o", str(self.work / "first"), *map(str, objects)],
            capture_output=True, text=True, timeout=_TIMEOUT, check=False,
        )  # fmt: skip
        if first.returncode:
            raise ToolError(f"ld failed: {_first_error(first.stderr)}")
        missing = sorted(
            set(_UNDEFINED.findall(first.stderr)) - {"oracle_nodata_names", "oracle_nodata_count"}
        )
        stubs = self.work / "oracle_stubs.s"
        stubs.write_text(_stubs(missing, _called(objects)))
        stub_object = self.work / "oracle_stubs.o"
        _run(["gcc", "-c", "-o", str(stub_object), str(stubs)])
        _run([*argv, "-o", str(target), *map(str, objects), str(stub_object)])


def _called(objects: Iterable[Path]) -> frozenset[str]:
    """Symbols that are called somewhere (R_X86_64_PLT32): functions."""
    out = _run(["readelf", "-rW", *map(str, objects)])
    return frozenset(
        parts[4]
        for line in out.splitlines()
        if len(parts := line.split()) > 4 and parts[2] == "R_X86_64_PLT32"
    )


def _stubs(missing: Sequence[str], called: frozenset[str]) -> str:
    lines: list[str] = []
    nodata: list[str] = []
    quiet = frozenset(_words("quiet"))
    for name in missing:
        if name in quiet:
            lines += [".text", f".globl {name}", f"{name}:", "xor %eax, %eax", "ret"]
        elif name == "__x86_return_thunk":
            lines += [".text", f".globl {name}", f"{name}:", "ret"]
        elif name in ZERO:
            lines += [".bss", ".balign 64", f".globl {name}", f"{name}:", f".zero {ZERO[name]}"]
        elif name in called:
            lines += [".section .rodata", f'1: .asciz "{name}"', ".text", f".globl {name}", f"{name}:"]
            lines += ["and $-16, %rsp", "mov $1b, %rdi", "call oracle_stub"]
        else:
            nodata.append(name)
            lines += ['.section .oracle.nodata, "aw", @nobits', f".globl {name}", f"{name}: .zero {_NODATA}"]
    lines += [
        '.section .oracle.names, "a"',
        ".balign 8",
        ".globl oracle_nodata_names",
        "oracle_nodata_names:",
    ]
    lines += [f'.quad 9f\n.section .rodata\n9: .asciz "{n}"\n.section .oracle.names' for n in nodata]
    lines += [".globl oracle_nodata_count", f"oracle_nodata_count: .long {len(nodata)}"]
    lines += ['.section .note.GNU-stack, "", @progbits']
    return "\n".join(lines) + "\n"


def _first_error(stderr: str) -> str:
    lines = [
        line for line in stderr.splitlines() if "warning" not in line.lower() and ": in function" not in line
    ]
    return (lines or stderr.splitlines() or ["no message"])[0]


def _run(argv: Sequence[str], *, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{argv[0]} did not finish in {_TIMEOUT} seconds") from None
    except OSError as error:
        raise ToolError(f"{argv[0]}: {error.strerror}") from None
    if done.returncode:
        raise ToolError(f"{argv[0]} failed: {_first_error(done.stderr)}")
    return done.stdout
