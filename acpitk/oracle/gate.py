"""Real boots that an oracle build must repeat, line for line, before it is used.

Compared is everything the kernel printed from its command line on, up to the memblock dump after NUMA, and
what it printed about zones and nodes from there; without time stamps, without callers of memblock functions
(compilers inline them differently) and without lines of code that is not in the oracle: console set-up, DMI,
TSC, MTRR, PAT.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from acpitk import klog
from acpitk.machine import Case, case_from_json
from acpitk.oracle.client import End, Report, Worker

_FOREIGN = re.compile(
    r"Linux version |printk: |ERROR: earlyprintk|SMBIOS |DMI: |tsc: |x86/PAT|MTRR|x86/fpu|total RAM covered"
    r"|APIC: (?:Static|Switch)|Hypervisor |found SMP|  [0-9A-F]{5}-[0-9A-F]{5} |  \d (?:base|disabled)"
    r"|Console: |Kernel/User page tables|Using GB pages|CPU MTRRs|BRK \[|original variable MTRRs|reg "
)
_LATER = re.compile(
    r"Zone ranges:|  (?:DMA|DMA32|Normal|Device) +|Movable zone start|  Node \d|Early memory node|  node "
    r"|Initmem setup node|Initializing node|On node \d|Could not find start_pfn|BUG: "
)
_UNEQUAL = re.compile(
    r"(?<=ACPI: RSDP) 0x[0-9A-F]+"  # where SeaBIOS puts it is of no consequence
    r"|(?<=[0-9a-f\]]) (?:[\w.]+\+0x[0-9a-f]+/)?0x[0-9a-f]+$"
)
_BEGIN = "Command line: "
_FAULT = re.compile(r"BUG: [^,]*?(?=, address| for address| in 0x|$)")


@dataclass(frozen=True, slots=True)
class RecordedBoot:
    """A real boot: what was booted and the `kernel_lines` it printed."""

    case: Case
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """The boots that come with acpitk for one kernel, and the release that printed them."""

    release: str
    boots: tuple[RecordedBoot, ...]


def recording(kernel: str) -> Recording | None:
    """The boots recorded of `kernel` (`v6.1`), None where there are none."""
    path = files("acpitk.oracle") / "boots" / f"{kernel}.json.xz"
    if not path.is_file():
        return None
    document = json.loads(lzma.decompress(path.read_bytes()))
    boots = tuple(
        RecordedBoot(case_from_json(boot["case"], source=f"{kernel}: boot {i}"), tuple(boot["lines"]))
        for i, boot in enumerate(document["boots"])
    )
    return Recording(document["release"], boots)


def kernel_lines(console: str) -> tuple[str, ...]:
    """What is compared of a console log, of a real boot or of the oracle."""
    return tuple(_compared(klog.lines(console)))


def _compared(log: list[str]) -> Iterator[str]:
    begun = dumped = False
    for line in log:
        begun = begun or line.startswith(_BEGIN)
        if not begun or _FOREIGN.match(line):
            continue
        if fault := _FAULT.match(line):
            yield fault[0]
            return
        if not dumped or _LATER.match(line) or line.startswith((" memory[", " reserved", " memory.")):
            yield _UNEQUAL.sub("", line)
        dumped = dumped or (line.startswith(" reserved[") and " on node " in line)


def oracle_lines(report: Report) -> tuple[str, ...]:
    """The same of the oracle's log."""
    last = report.text + "\n" if report.end is End.FAULT else ""
    return kernel_lines(f"{report.log.rstrip(chr(10))}\n{last}")


def first_difference(boot: RecordedBoot, worker: Worker) -> str | None:
    """Where the oracle departs from a recorded boot; None where it does not."""
    lines = oracle_lines(worker.ask(boot.case, log=True))
    for index, expected in enumerate(boot.lines):
        if index >= len(lines) or lines[index] != expected:
            got = lines[index] if index < len(lines) else "nothing"
            return f"line {index + 1}: the kernel printed {expected!r}, the oracle {got!r}"
    if len(lines) > len(boot.lines):
        return f"the oracle goes on after the kernel's last line: {lines[len(boot.lines)]!r}"
    return None
