"""Write the seed cases of this directory anew: `python corpus/regenerate.py [--qemu]`.

Without options, the presets. With `--qemu`, also the tables that the installed qemu-system-x86_64 generates
for guests with `-numa`, taken from guest memory; another QEMU may give other bytes and so other file names.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from acpitk.corpus import StoredCase, save
from acpitk.errors import ToolError
from acpitk.fuzz import raw
from acpitk.machine import Q35, Case
from acpitk.qemu.runner import find_qemu, qemu_version
from acpitk.ranges import GIB, KIB, MIB
from acpitk.tables.header import checksum_valid
from acpitk.tables.slit import encode_slit
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology

CORPUS = Path(__file__).parent
ACPI_WINDOW = 256 * KIB
"""SeaBIOS copies QEMU's tables to the last 128 KiB of low RAM; searched with room to spare."""
FIRMWARE_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A topology in the words of `acpitk gen`, and what it stands for."""

    name: str
    why: str
    machine: Q35
    nodes: Sequence[str]
    distances: Sequence[str] = ()
    cmdline: str = "movable_node"
    revision: int = 3


PRESETS = (
    Preset(
        name="two-socket",
        why="a two-socket server, the second socket's memory hot-pluggable",
        machine=Q35(4 * GIB),
        nodes=("0:mem=0-640K,mem=1M-2G,cpus=0-1", "1:mem=4G-6G,hotplug,cpus=2-3"),
        distances=("0,1=21",),
    ),
    Preset(
        name="four-socket",
        why="a four-socket server in two pairs, three sockets hot-pluggable",
        machine=Q35(8 * GIB),
        nodes=(
            "0:mem=0-2G,cpus=0-3",
            "1:mem=4G-6G,hotplug,cpus=4-7",
            "2:mem=6G-8G,hotplug,cpus=8-11",
            "3:mem=8G-10G,hotplug,cpus=12-15",
        ),
        distances=("0,1=16", "0,2=21", "0,3=26", "1,2=26", "1,3=21", "2,3=16"),
    ),
    Preset(
        name="everything-hot",
        why="firmware that marks all memory hot-pluggable and leaves the kernel no home",
        machine=Q35(GIB),
        nodes=("0:mem=0-512M,hotplug,cpus=0", "1:mem=512M-1G,hotplug,cpus=1"),
    ),
    Preset(
        name="hot-above-4g",
        why="one node up to 4 GiB, a hot one above, clear of initrd and ACPI tables",
        machine=Q35(3 * GIB),
        nodes=("0:mem=0-2G,cpus=0", "1:mem=4G-5G,hotplug"),
    ),
    Preset(
        name="hot-below-4g",
        why="a hot node that owns the top of low RAM, where boot loaders put the initrd",
        machine=Q35(GIB, 8 * MIB),
        nodes=("0:mem=0-512M,cpus=0", "1:mem=512M-1G,hotplug"),
    ),
    Preset(
        name="cxl-memoryless",
        why="a CXL host: domains without memory for windows to come, and a memory-only hot node",
        machine=Q35(4 * GIB),
        nodes=(
            "0:mem=0-2G,cpus=0-1",
            "1:mem=4G-6G,hotplug,sp",
            "2:mem=64G-64G,hotplug",
            "3:mem=128G-128G,hotplug",
        ),
        distances=("0,1=24",),
    ),
    Preset(
        name="hypervisor-giant-range",
        why="a hypervisor that promises hotplug up to 2^49 on both nodes",
        machine=Q35(4 * GIB),
        nodes=("0:mem=0-2G,mem=256T-512T,hotplug,cpus=0", "1:mem=4G-6G,mem=1T-256T,hotplug,cpus=1"),
    ),
    Preset(
        name="small-kernel-node",
        why="barely enough memory that is not hot",
        machine=Q35(GIB),
        nodes=("0:mem=0-96M,cpus=0", "1:mem=96M-1G,hotplug"),
    ),
    Preset(
        name="half-hot-node",
        why="one node plain below and hot above, the boundary inside a memory block",
        machine=Q35(3 * GIB),
        nodes=("0:mem=0-2G,cpus=0", "1:mem=4G-4160M,mem=4160M-5G,hotplug"),
    ),
    Preset(
        name="revision-1",
        why="a table of revision 1, whose proximity domains have 8 bits",
        machine=Q35(GIB),
        nodes=("0:mem=0-512M,cpus=0", "1:mem=512M-1G,hotplug"),
        revision=1,
    ),
    Preset(
        name="movablecore",
        why="ZONE_MOVABLE sized on the command line, which ignores the SRAT",
        machine=Q35(4 * GIB),
        nodes=("0:mem=0-2G,cpus=0", "1:mem=4G-6G,hotplug"),
        cmdline="movablecore=1500M",
    ),
)


def preset_cases() -> Iterator[tuple[str, StoredCase]]:
    """(name, case) of every preset."""
    for preset in PRESETS:
        topology = parse_topology(preset.nodes, preset.distances)
        srat, slit = topology.tables(revision=preset.revision)
        tables = (encode_srat(srat), *([] if slit is None else [encode_slit(slit)]))
        words = " ".join(
            [*(f"--node {n}" for n in preset.nodes), *(f"--distance {d}" for d in preset.distances)]
        )
        yield (
            preset.name,
            StoredCase(
                case=Case(machine=preset.machine, tables=tables, cmdline=preset.cmdline),
                provenance=f"preset {preset.name}: {preset.why} (acpitk gen {words})",
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A QEMU guest whose own tables are worth having; `memory` in bytes."""

    name: str
    memory: int
    options: Sequence[str]


def _nodes(sizes: Sequence[str], *rest: str) -> list[str]:
    out = []
    for i, size in enumerate(sizes):
        out += ["-object", f"memory-backend-ram,id=r{i},size={size},reserve=off"]
        out += ["-numa", f"node,nodeid={i},memdev=r{i},cpus={i}"]
    return out + list(rest)


GUESTS = (
    Guest(name="qemu-one-node", memory=GIB, options=("-m", "1G", "-smp", "1", *_nodes(["1G"]))),
    Guest(name="qemu-two-nodes", memory=2 * GIB, options=("-m", "2G", "-smp", "2", *_nodes(["1G", "1G"]))),
    Guest(
        name="qemu-four-nodes-distances",
        memory=8 * GIB,
        options=(
            *("-m", "8G", "-smp", "4"),
            *_nodes(["2G"] * 4, "-numa", "dist,src=0,dst=1,val=15", "-numa", "dist,src=0,dst=2,val=30"),
            *("-numa", "dist,src=0,dst=3,val=45", "-numa", "dist,src=1,dst=2,val=31"),
            *("-numa", "dist,src=1,dst=3,val=46", "-numa", "dist,src=2,dst=3,val=17"),
        ),
    ),
    Guest(
        name="qemu-memory-slots",
        memory=2 * GIB,
        options=("-m", "2G,slots=4,maxmem=16G", "-smp", "2", *_nodes(["1G", "1G"])),
    ),
    Guest(
        name="qemu-nvdimm",
        memory=2 * GIB,
        options=(
            *("-machine", "nvdimm=on", "-m", "2G,slots=4,maxmem=16G", "-smp", "2"),
            *_nodes(["1G", "1G"]),
            *("-object", "memory-backend-ram,id=d0,size=1G,reserve=off"),
            *("-device", "nvdimm,memdev=d0,node=1"),
        ),
    ),
    Guest(
        name="qemu-memoryless-node",
        memory=GIB,
        options=("-m", "1G,slots=2,maxmem=4G", "-smp", "1", *_nodes(["1G"], "-numa", "node,nodeid=1")),
    ),
    Guest(
        name="qemu-uneven-pci-hole",
        memory=5 * GIB,
        options=("-m", "5G", "-smp", "3", *_nodes(["3G", "1G", "1G"])),
    ),
)


def qemu_cases() -> Iterator[tuple[str, StoredCase]]:
    """(name, case) of every guest, its tables as QEMU and SeaBIOS left them in memory.

    Raises:
        ToolError: QEMU is missing, refuses a guest, or its firmware wrote no SRAT in time.
    """
    qemu = find_qemu()
    for guest in GUESTS:
        machine = Q35(guest.memory)
        tables = _guest_tables(qemu, guest, machine)
        yield (
            guest.name,
            StoredCase(
                case=Case(machine=machine, tables=tables, cmdline="movable_node"),
                provenance=f"generated by QEMU {qemu_version(qemu)}: -machine q35 {' '.join(guest.options)}",
            ),
        )


def _guest_tables(qemu: Path, guest: Guest, machine: Q35) -> tuple[bytes, ...]:
    argv = [str(qemu), "-machine", "q35,accel=tcg", "-display", "none", "-nodefaults", "-qmp", "stdio"]
    argv += guest.options
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        limit = threading.Timer(FIRMWARE_SECONDS, process.kill)
        limit.start()
        try:
            _command(process, "qmp_capabilities")
            dump = Path(directory) / "memory"
            start = machine.low_end - ACPI_WINDOW
            while True:
                _command(process, "pmemsave", val=start, size=ACPI_WINDOW, filename=str(dump))
                memory = dump.read_bytes()
                if srat := _table(memory, b"SRAT"):
                    slit = _table(memory, b"SLIT")
                    return (srat,) if slit is None else (srat, slit)
                time.sleep(0.1)
        finally:
            limit.cancel()
            process.kill()


def _command(process: subprocess.Popen[str], name: str, **arguments: object) -> None:
    stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    stdin.flush()
    for line in stdout:
        answer = json.loads(line)
        if "error" in answer:
            raise ToolError(f"QEMU refuses {name}: {answer['error'].get('desc')}")
        if "return" in answer:
            return
    raise ToolError(f"QEMU refused its options, or its firmware wrote no SRAT in {FIRMWARE_SECONDS} s")


def _table(memory: bytes, signature: bytes) -> bytes | None:
    """The first table with this signature and a right checksum."""
    at = memory.find(signature)
    while at >= 0:
        length = int.from_bytes(memory[at + 4 : at + 8], "little")
        table = memory[at : at + length]
        if raw.HEADER_SIZE <= length == len(table) and checksum_valid(table):
            return table
        at = memory.find(signature, at + 1)
    return None


def main() -> int:
    """Write the cases; older files of the same name are replaced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qemu", action="store_true", help="also take the tables of QEMU guests")
    options = parser.parse_args()
    sources = [preset_cases()] + ([qemu_cases()] if options.qemu else [])
    for source in sources:
        for name, stored in source:
            print(save(CORPUS, stored, slug=name).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
