"""Boot the golden cases on real kernels and write what they print: `python tests/klog/record.py`.

Needs QEMU and the kernels below (`acpitk kernel fetch`). Each case gets a directory under `logs/` with
`case.json`, one console log per kernel, cut after the zones are set up, and beside it what `klog.parse`
makes of it. Review the difference before committing it.
"""

from __future__ import annotations

import json
from pathlib import Path

from acpitk import klog
from acpitk.machine import Q35, Case
from acpitk.qemu.image import find_kernel
from acpitk.qemu.runner import boot
from acpitk.ranges import GIB, KIB, MIB
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import (
    Entry,
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    UnknownEntry,
    build_srat,
    encode_srat,
)

LOGS = Path(__file__).parent / "logs"
TWO_KERNELS = ("v6.1", "v7.3")
FOUR_KERNELS = ("v5.10", "v6.1", "v6.12", "v7.3")
_LAST_LINE = "setup_percpu: "
"""The last line any field comes from."""


def _memory(pxm: int, start: int, end: int, *, hot: bool = False) -> MemoryAffinity:
    flags = MemoryFlags.ENABLED | (MemoryFlags.HOT_PLUGGABLE if hot else MemoryFlags(0))
    return MemoryAffinity(proximity_domain=pxm, base=start, length=end - start, flags=flags)


def _case(*entries: Entry, slit: list[list[int]] | None = None, cmdline: str = "movable_node") -> Case:
    cpu = ProcessorAffinity(proximity_domain=0, apic_id=0)
    tables = [encode_srat(build_srat((cpu, *entries)))]
    if slit:
        tables.append(encode_slit(build_slit(slit)))
    return Case(machine=Q35(GIB), tables=tuple(tables), cmdline=cmdline)


NODE_0 = _memory(0, 0, 512 * MIB)
NODE_1 = _memory(1, 512 * MIB, GIB, hot=True)
DISTANCES = [[10, 21], [21, 10]]
SCENARIOS: dict[str, tuple[Case, tuple[str, ...]]] = {
    "accepted": (_case(NODE_0, NODE_1, slit=DISTANCES), FOUR_KERNELS),
    "overlap": (_case(_memory(0, 0, 600 * MIB), NODE_1), TWO_KERNELS),
    "coverage": (_case(NODE_0, _memory(1, 512 * MIB, 768 * MIB, hot=True)), FOUR_KERNELS),
    "zero-length": (_case(NODE_0, NODE_1, UnknownEntry(raw=b"\x20\0\0")), TWO_KERNELS),
    "numa-off": (_case(NODE_0, NODE_1, slit=DISTANCES, cmdline="numa=off"), TWO_KERNELS),
    "bad-slit": (_case(NODE_0, NODE_1, slit=[[10, 9], [21, 10]]), TWO_KERNELS),
    "one-page-uncovered": (
        _case(NODE_0, _memory(1, 512 * MIB, GIB - 132 * KIB, hot=True)),
        TWO_KERNELS,
    ),
}


def trimmed(console: str) -> str:
    """The console up to the last line that says anything about memory."""
    kept = []
    for line in console.splitlines(keepends=True):
        kept.append(line)
        if _LAST_LINE in line:
            break
    return "".join(kept)


def record(name: str) -> None:
    """Boot one case on its kernels and write its directory."""
    case, kernels = SCENARIOS[name]
    directory = LOGS / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "case.json").write_text(json.dumps(case.to_json(), indent=1) + "\n")
    for kernel in kernels:
        result = boot(case, find_kernel(kernel))
        console = trimmed(result.console)
        outcome = klog.parse(console, kernel=kernel, ended=result.ended.value)
        (directory / f"{kernel}.log").write_text(console)
        document = {"ended": result.ended.value, "outcome": outcome.to_json()}
        (directory / f"{kernel}.json").write_text(json.dumps(document, indent=1) + "\n")
        print(f"{name} {kernel}: {result.ended.value} in {result.seconds:.2f} s")


if __name__ == "__main__":
    for scenario in SCENARIOS:
        record(scenario)
