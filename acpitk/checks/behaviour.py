"""What kind of boot this was: the decisions taken, named without addresses and sizes.

A behaviour is a set of such names. Cases of one behaviour were treated alike; a name, or a pair of them, that
no case showed before is what a guided campaign looks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import starmap
from operator import attrgetter

from acpitk import klog
from acpitk.checks.differential import message_class, panic_class
from acpitk.kernel.prediction import Prediction

_verdict = attrgetter("zone", "reason")
_DIGITS = str.maketrans("", "", "0123456789abcdef")
_DEBUG = re.compile(
    r" *(?:memory|reserved)[.\[]|_{0,2}memblock_|MEMBLOCK |BIOS-e820|  node |\s*$"
    r"|ACPI: [A-Z0-9]{4} 0x|(?:Kernel c|C)ommand line:"
)
"""Lines that are no decisions: `memblock=debug`, memory maps, and what the case itself says."""
_FRAME = re.compile(r" (\?)? ?([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_STACK_TOP = 3
_SHAPE_LENGTH = 120


def behaviour(prediction: Prediction) -> frozenset[str]:
    """The decisions of one boot in the model, for example `numa: dummy, nodes overlap`.

    They cover why the NUMA configuration stands or falls, what became of the memory affinity entries, which
    owners cost a node its hotplug marks, which zones and verdicts on memory blocks there are, what was
    allocated early and where node data went, which distances hold, the warnings, and how the boot ended.
    """
    outcome = prediction.outcome
    named: set[tuple[object, ...]] = {
        ("numa", outcome.numa, outcome.numa_reason),
        ("early allocations", prediction.bottom_up, prediction.skips_hotplug),
        ("entries", len(prediction.entries).bit_length()),
    }
    for entry in prediction.entries:
        named.add(("entry", entry.use, entry.hotplug, entry.pxm == entry.firmware_pxm))
    for owners in prediction.kernel_nodes.values():
        named.update([("kernel node", owner) for owner in owners])
    if outcome.node_data is not None:
        nodes = {node.nid for node in outcome.node_data}
        named.add(("nodes", len(nodes).bit_length(), len(nodes) == max(nodes, default=-1) + 1))
        named.update([("node data at home", node.nid == node.on_nid) for node in outcome.node_data])
        for purpose, anywhere in {(a.purpose, a.wanted_nid is None) for a in prediction.allocations}:
            named.add(("allocation", purpose.rstrip("0123456789()"), anywhere))
        regions = outcome.memory or ()
        named.update([("memory", region.nid is None, region.flags) for region in regions])
        named.update([("memoryless", nid == 0) for nid in nodes.difference([r.nid for r in regions])])
    zones: dict[int, tuple[str, ...]] = {}
    for zone in outcome.zones or ():
        zones[zone.nid] = (*zones.get(zone.nid, ()), zone.zone)
    named.update([("zones", nid == 0, names) for nid, names in zones.items()])
    named.update([("block", *verdict) for verdict in set(map(_verdict, outcome.blocks or ()))])
    if outcome.distances:
        named.add(("distances", *_distances(outcome.distances)))
    for text in {text.lower().translate(_DIGITS): text for text in outcome.messages}.values():
        named.add(("message", message_class(text)))
    if outcome.panic:
        named.add(("panic", panic_class(outcome.panic)))
    return frozenset(starmap(_name, named))


def console_behaviour(console: str, *, kernel: str) -> frozenset[str]:
    """The decisions a real kernel let be seen: shapes of its messages, its warnings, and tops of its stacks.

    Args:
        console: the console log; lines of `memblock=debug` and of memory maps are left out.
        kernel: begins every name, because messages differ between kernels.
    """
    return frozenset(f"{kernel} {name}" for name in _console(klog.lines(console)))


def _console(lines: Sequence[str]) -> Iterator[str]:
    stack: list[re.Match[str]] | None = None
    for line in (*lines, ""):
        frame = _FRAME.match(line)
        if stack is not None and frame is not None:
            stack.append(frame)
        elif stack:
            # Early in a boot the unwinder is sure of no frame.
            sure = [each[2] for each in stack if each[1] is None] or [each[2] for each in stack]
            yield "stack: " + " < ".join(sure[:_STACK_TOP])
            stack = None
        if "Call Trace:" in line:
            stack = []
        elif frame is None and not _DEBUG.match(line):
            yield message_class(line)[:_SHAPE_LENGTH]


@lru_cache(maxsize=256)
def _distances(rows: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    """What is unusual about them."""
    values = {value for i, row in enumerate(rows) for j, value in enumerate(row) if i != j}
    unusual = {
        "asymmetric": any(rows[i][j] != rows[j][i] for i in range(len(rows)) for j in range(i)),
        "near": min(values, default=20) < 20,
        "far": max(values, default=20) > 20,
    }
    return tuple(word for word, holds in unusual.items() if holds)


@lru_cache(maxsize=1 << 14)
def _name(kind: str, *words: object) -> str:
    return f"{kind}: " + ", ".join(" ".join(word) if isinstance(word, tuple) else str(word) for word in words)
