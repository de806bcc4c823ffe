"""Node topologies in words, and the SRAT and SLIT that describe them.

A node is written `ID:key=value,flag,...`, for example `1:mem=512M-1G,hotplug,cpus=2-3`:
`mem=START-END` opens a memory range (end exclusive), the flags `hotplug`, `nv`, `sp` and `disabled` belong to
the range before them, `cpus=FIRST[-LAST]` lists APIC IDs (last included). ID is the proximity domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from acpitk.errors import UsageError
from acpitk.ranges import ADDRESS_LIMIT, GIB, PhysRange, parse_range
from acpitk.tables.slit import LOCAL, Slit, build_slit
from acpitk.tables.srat import (
    Entry,
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    Srat,
    X2ApicAffinity,
    build_srat,
)

REMOTE_DISTANCE = 20
SLIT_LIMIT = 254
"""Most localities whose SLIT still fits QEMU's `-acpitable`, which takes tables of up to 65535 bytes."""

_U32 = 1 << 32
_4G = 4 * GIB
_MOST_CPUS = 65536
_FIRST_X2APIC_ID = 255
"""255 means all CPUs in a local APIC ID (ACPI 6.6, 5.2.16.1), so larger IDs need an x2APIC entry."""
_FLAGS = {
    "hotplug": MemoryFlags.HOT_PLUGGABLE,
    "nv": MemoryFlags.NON_VOLATILE,
    "sp": MemoryFlags.SPECIFIC_PURPOSE,
}
_FLAG_WORDS = (*_FLAGS, "disabled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One memory range of a node, bytes half-open, with the words that stand after it."""

    range: PhysRange
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A proximity domain, its memory in table order and the APIC IDs of its CPUs."""

    domain: int
    memory: tuple[Memory, ...] = ()
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Nodes in the order their entries appear, and distances by (from, to) proximity domain."""

    nodes: tuple[Node, ...]
    distances: Mapping[tuple[int, int], int]

    def tables(self, *, revision: int = 3) -> tuple[Srat, Slit | None]:
        """The SRAT and SLIT that say this; processors first, then memory.

        Without any `cpus`, APIC ID 0 belongs to the first node. A distance given in one direction holds in
        both; pairs without one are 10 (local) and 20. The SLIT is None where no distance is given and the
        highest proximity domain is above `SLIT_LIMIT`.

        Raises:
            UsageError: a distance names a domain that has no node, or a domain above `SLIT_LIMIT`.
        """
        cpus = [(node.domain, apic) for node in self.nodes for apic in node.cpus]
        if not cpus and self.nodes:
            cpus = [(self.nodes[0].domain, 0)]
        entries = [_processor(domain, apic) for domain, apic in cpus]
        memory = [_memory(node.domain, range_) for node in self.nodes for range_ in node.memory]
        return build_srat((*entries, *memory), revision=revision), self._slit()

    def _slit(self) -> Slit | None:
        known = {node.domain for node in self.nodes}
        size = max(known, default=0) + 1
        if stray := sorted({domain for pair in self.distances for domain in pair} - known):
            raise UsageError(f"distance: node {stray[0]} is not in the topology")
        if size > SLIT_LIMIT:
            if self.distances:
                raise UsageError(
                    f"distance: a SLIT for proximity domain {size - 1} would not fit -acpitable; "
                    f"use domains up to {SLIT_LIMIT - 1}"
                )
            return None
        return build_slit([[self._distance(i, j) for j in range(size)] for i in range(size)])

    def _distance(self, a: int, b: int) -> int:
        default = LOCAL if a == b else REMOTE_DISTANCE
        return self.distances.get((a, b), self.distances.get((b, a), default))


def parse_topology(nodes: Iterable[str], distances: Iterable[str] = ()) -> Topology:
    """Read `--node` and `--distance` words; a node written twice gathers what both say.

    Raises:
        UsageError: naming the word and the part of it that is wrong.
    """
    return _topology(
        (parse_node(text) for text in nodes),
        (_parse_distance(text, f"distance {text!r}") for text in distances),
    )


def topology_from_mapping(document: object, *, source: str) -> Topology:
    """Read a topology document.

    Args:
        document: `{"nodes": {0: {"mem": ["0-512M"], "cpus": "0-1"}, 1: {"mem": ["512M-1G,hotplug"]}},
            "distances": {"0,1": 21}}`, as YAML gives it.
        source: the file, named in errors.

    Raises:
        UsageError: naming the key that is wrong.
    """
    fields = _mapping(document, source, allowed=("nodes", "distances"))
    if "nodes" not in fields:
        raise UsageError(f"{source}: nodes: missing; a topology needs at least one node")
    nodes = []
    for key, value in _mapping(fields["nodes"], f"{source}: nodes").items():
        where = f"{source}: nodes.{key}"
        node = _mapping(value, where, allowed=("mem", "cpus"))
        domain = _number(str(key), _U32, where, "proximity domain")
        memory = tuple(_parse_memory(t, f"{where}.mem[{i}]") for i, t in enumerate(_texts(node.get("mem"))))
        cpus = tuple(c for t in _texts(node.get("cpus")) for c in _parse_cpus(t, f"{where}.cpus"))
        nodes.append(Node(domain=domain, memory=memory, cpus=cpus))
    pairs = _mapping(fields.get("distances") or {}, f"{source}: distances")
    return _topology(
        nodes, (_parse_distance(f"{pair}={d}", f"{source}: distances.{pair}") for pair, d in pairs.items())
    )


def parse_node(text: str) -> Node:
    """Read one `--node` word.

    Raises:
        UsageError: naming the part that is wrong.
    """
    where = f"node {text!r}"
    domain, colon, rest = text.partition(":")
    if not colon:
        raise UsageError(
            f"{where}: expected ID:mem=START-END[,hotplug],... for example 1:mem=512M-1G,hotplug"
        )
    memory: list[list[str]] = []
    cpus: list[int] = []
    for token in filter(None, rest.split(",")):
        key, equals, value = token.partition("=")
        if key == "mem" and equals:
            memory.append([value])
        elif key == "cpus" and equals:
            cpus += _parse_cpus(value, where)
        elif memory and not equals:
            memory[-1].append(token)
        elif token in _FLAG_WORDS:
            raise UsageError(f"{where}: {token!r} must follow the mem= range it describes")
        else:
            raise UsageError(f"{where}: {token!r} is not mem=START-END, cpus=FIRST-LAST or {_one_of_flags()}")
    return Node(
        domain=_number(domain, _U32, where, "proximity domain"),
        memory=tuple(_parse_memory(",".join(words), where) for words in memory),
        cpus=tuple(cpus),
    )


def set_hotplug(srat: Srat, selector: str, *, hotplug: bool) -> Srat:
    """Set or clear Hot Pluggable on the enabled memory `selector` names, splitting entries at its bounds.

    Args:
        srat: the table to change; its length and checksum stay as they are (see `seal`).
        selector: `all`, `all-but-first` (not the node of the lowest address), `node=N` or `4G-8G`.
        hotplug: the new state of the flag.

    Raises:
        UsageError: the selector cannot be read, or names no enabled memory of this table.
    """
    memory = [e for e in srat.memory_affinities() if e.length and e.flags & MemoryFlags.ENABLED]
    chosen = _chosen(selector, memory)
    entries: list[Entry] = []
    matched = False
    for entry in srat.entries:
        if not isinstance(entry, MemoryAffinity) or entry not in memory:
            entries.append(entry)
            continue
        for part, inside in _split(entry, chosen):
            matched |= inside
            entries.append(_with_hotplug(part, hotplug) if inside else part)
    if not matched:
        have = ", ".join(map(str, sorted({entry.proximity_domain for entry in memory}))) or "none"
        raise UsageError(
            f"hotplug {selector!r}: names no enabled memory of this table (nodes with any: {have})"
        )
    return srat.with_entries(tuple(entries))


def scale_above_4g(topology: Topology, factor: int) -> Topology:
    """The topology with `factor` times the memory above 4 GiB, where a PC's RAM goes on; below, as it is.

    Raises:
        UsageError: a range would end above 2^64.
    """

    def moved(address: int) -> int:
        return address if address <= _4G else _4G + (address - _4G) * factor

    def scaled(memory: Memory) -> Memory:
        start, end = moved(memory.range.start), moved(memory.range.end)
        if end > ADDRESS_LIMIT:
            raise UsageError(f"scale {factor}: the range {memory.range} would end above 2^64")
        return replace(memory, range=PhysRange(start, end))

    nodes = (replace(node, memory=tuple(map(scaled, node.memory))) for node in topology.nodes)
    return replace(topology, nodes=tuple(nodes))


def _chosen(selector: str, memory: Sequence[MemoryAffinity]) -> PhysRange | set[int]:
    """The range or the proximity domains that the selector names."""
    domains = {entry.proximity_domain for entry in memory}
    if selector == "all":
        return domains
    if selector == "all-but-first":
        return domains - {entry.proximity_domain for entry in sorted(memory, key=lambda e: e.base)[:1]}
    where = f"hotplug {selector!r}"
    if selector.startswith("node="):
        return {_number(selector.removeprefix("node="), _U32, where, "node")}
    try:
        return parse_range(selector)
    except ValueError as error:
        raise UsageError(f"{where}: {error}; or say all, all-but-first or node=N") from None


def _split(entry: MemoryAffinity, chosen: PhysRange | set[int]) -> Iterator[tuple[MemoryAffinity, bool]]:
    """The entry cut at the bounds of `chosen`, each part with whether it lies inside."""
    if not isinstance(chosen, PhysRange):
        yield entry, entry.proximity_domain in chosen
        return
    base, end = entry.base, entry.base + entry.length
    cuts = sorted({base, end} | {cut for cut in (chosen.start, chosen.end) if base < cut < end})
    for start, stop in pairwise(cuts):
        part = replace(entry, base=start, length=stop - start)
        yield part, chosen.start <= start and stop <= chosen.end


def _with_hotplug(entry: MemoryAffinity, hotplug: bool) -> MemoryAffinity:
    flag = MemoryFlags.HOT_PLUGGABLE
    return replace(entry, flags=entry.flags | flag if hotplug else entry.flags & ~flag)


def _topology(nodes: Iterable[Node], distances: Iterable[tuple[int, int, int]]) -> Topology:
    merged: dict[int, Node] = {}
    for node in nodes:
        before = merged.get(node.domain, Node(domain=node.domain))
        merged[node.domain] = replace(node, memory=before.memory + node.memory, cpus=before.cpus + node.cpus)
    if not merged:
        raise UsageError("no nodes: give at least one, for example --node 0:mem=0-512M")
    return Topology(nodes=tuple(merged.values()), distances={(a, b): d for a, b, d in distances})


def _processor(domain: int, apic: int) -> ProcessorAffinity | X2ApicAffinity:
    if apic < _FIRST_X2APIC_ID:
        return ProcessorAffinity(proximity_domain=domain, apic_id=apic)
    return X2ApicAffinity(proximity_domain=domain, x2apic_id=apic)


def _memory(domain: int, memory: Memory) -> MemoryAffinity:
    flags = MemoryFlags(0) if "disabled" in memory.flags else MemoryFlags.ENABLED
    for word, flag in _FLAGS.items():
        if word in memory.flags:
            flags |= flag
    return MemoryAffinity(
        proximity_domain=domain, base=memory.range.start, length=memory.range.size, flags=flags
    )


def _parse_memory(text: str, where: str) -> Memory:
    range_, *flags = text.split(",")
    if unknown := [flag for flag in flags if flag not in _FLAG_WORDS]:
        raise UsageError(f"{where}: {unknown[0]!r} is not {_one_of_flags()}")
    try:
        bounds = parse_range(range_)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    if bounds.size >= ADDRESS_LIMIT:
        raise UsageError(f"{where}: {range_!r} is 2^64 bytes, and a table's length field holds 64 bits")
    return Memory(range=bounds, flags=frozenset(flags))


def _parse_cpus(text: str, where: str) -> tuple[int, ...]:
    first, dash, last = text.partition("-")
    low = _number(first, _U32, where, "APIC ID")
    high = _number(last, _U32, where, "APIC ID") if dash else low
    if not 0 <= high - low < _MOST_CPUS:
        raise UsageError(f"{where}: cpus={text}: expected FIRST-LAST of at most {_MOST_CPUS} APIC IDs")
    return tuple(range(low, high + 1))


def _parse_distance(text: str, where: str) -> tuple[int, int, int]:
    pair, equals, distance = text.partition("=")
    a, comma, b = pair.partition(",")
    if not (equals and comma):
        raise UsageError(f"{where}: expected FROM,TO=DISTANCE, for example 0,1=21")
    return (
        _number(a, _U32, where, "node"),
        _number(b, _U32, where, "node"),
        _number(distance, 256, where, "distance"),
    )


def _number(text: str, limit: int, where: str, what: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number < limit:
        raise UsageError(f"{where}: {what} {text!r} is not a whole number from 0 to {limit - 1}")
    return number


def _texts(value: object) -> list[str]:
    """A YAML scalar or list as words; nothing is no words."""
    if value is None:
        return []
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _mapping(value: object, where: str, *, allowed: tuple[str, ...] = ()) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected a mapping of keys to values")
    if allowed and (unknown := [key for key in value if key not in allowed]):
        raise UsageError(f"{where}: {unknown[0]}: unknown key, expected {' or '.join(allowed)}")
    return value


def _one_of_flags() -> str:
    return f"{', '.join(_FLAG_WORDS[:-1])} or {_FLAG_WORDS[-1]}"
