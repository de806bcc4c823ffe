"""The story of one boot in order: what firmware said, what the kernel did, and because of what.

Every step names the kernel function behind it, with the file it is in for that version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from acpitk.checks.differential import Comparison
from acpitk.checks.finding import Finding, Severity
from acpitk.errors import DecodeError
from acpitk.kernel.cmdline import parse_cmdline
from acpitk.kernel.policy import (
    V5_10,
    V6_1,
    V6_12,
    V7_3,
    Change,
    HotplugMarks,
    KernelExemption,
    KernelPolicy,
)
from acpitk.kernel.prediction import EntryUse, EntryVerdict, Prediction
from acpitk.machine import Case, E820Type
from acpitk.outcome import NumaReason, NumaState, Outcome
from acpitk.ranges import format_size
from acpitk.report.addressmap import (
    UNICODE,
    Glyphs,
    Lane,
    axis,
    block_runs,
    draw,
    firmware_lanes,
    outcome_lanes,
)
from acpitk.report.text import printable, span, table
from acpitk.tables.slit import decode_slit

_LISTED = 12
"""Entries, places or nodes spelled out in text; JSON has all of them."""
_MATRIX = 16
"""Nodes up to which distances are drawn in a terminal."""
UNOBSERVED = "not observed"


class Chapter(StrEnum):
    """The stations of a boot, in order."""

    MEMORY_MAP = "memory map"
    RESERVED = "memory in use"
    ENTRY = "SRAT entry"
    DOMAINS = "domains to nodes"
    DISTANCES = "SLIT"
    NUMA = "NUMA configuration"
    MARKS = "hotplug marks"
    ALLOCATIONS = "early allocations"
    MOVABLE = "ZONE_MOVABLE"
    ZONES = "zones"
    BLOCKS = "memory blocks"
    END = "end"


_CHAPTER_OF = {
    "POL-ENTRY-IGNORED": Chapter.ENTRY,
    "POL-PXM-MASKED": Chapter.ENTRY,
    "POL-WRAPPED-MARK": Chapter.ENTRY,
    "POL-OVERLAP-FLAGS": Chapter.ENTRY,
    "POL-BEYOND-RAM": Chapter.ENTRY,
    "POL-SWIOTLB": Chapter.ENTRY,
    "POL-ALL-HOT": Chapter.ENTRY,
    "POL-NODE-ORDER": Chapter.DOMAINS,
    "POL-MEMORYLESS": Chapter.DOMAINS,
    "POL-SLIT-IGNORED": Chapter.DISTANCES,
    "POL-SLIT-ASYMMETRIC": Chapter.DISTANCES,
    "POL-NUMA-REJECTED": Chapter.NUMA,
    "POL-ADOPTED-RAM": Chapter.NUMA,
    "POL-KERNEL-NODE": Chapter.MARKS,
    "POL-NODE-DATA": Chapter.ALLOCATIONS,
    "POL-EARLY-ALLOC": Chapter.ALLOCATIONS,
    "POL-ALLOC-MOVABLE": Chapter.ALLOCATIONS,
    "POL-NODE-OFFLINE": Chapter.ALLOCATIONS,
    "POL-HOT-NOT-MOVABLE": Chapter.MOVABLE,
    "POL-SWEPT": Chapter.MOVABLE,
    "POL-KERNEL-MEMORY": Chapter.MOVABLE,
    "POL-MOVABLE-RATIO": Chapter.MOVABLE,
    "POL-NOTHING-MOVABLE": Chapter.MOVABLE,
    "POL-CORE-IGNORED": Chapter.MOVABLE,
    "POL-OPTION-OFF": Chapter.MOVABLE,
    "POL-BLOCK-STRADDLE": Chapter.BLOCKS,
    "POL-NOT-REMOVABLE": Chapter.BLOCKS,
}
"""Where in the story a finding belongs; others come at the end."""

_SINCE_6_12 = (V6_12.name, V7_3.name)
_PLACES: Mapping[str, Mapping[str, str]] = {
    name: dict.fromkeys((V5_10.name, V6_1.name), old) | dict.fromkeys(_SINCE_6_12, new)
    for name, old, new in (
        ("memory map", "e820__memblock_setup(), arch/x86/kernel/e820.c", ""),
        ("reserved", "setup_arch(), arch/x86/kernel/setup.c", ""),
        (
            "entry",
            "acpi_numa_memory_affinity_init(), drivers/acpi/numa/srat.c",
            "acpi_parse_memory_affinity(), drivers/acpi/numa/srat.c",
        ),
        (
            "walk",
            "acpi_parse_entries_array(), drivers/acpi/tables.c",
            "acpi_parse_entries_array(), lib/fw_table.c",
        ),
        ("domains", "acpi_map_pxm_to_node(), drivers/acpi/numa/srat.c", ""),
        ("slit", "slit_valid(), drivers/acpi/numa/srat.c", ""),
        (
            "distances",
            "acpi_numa_slit_init(), drivers/acpi/numa/srat.c",
            "acpi_parse_slit(), drivers/acpi/numa/srat.c",
        ),
        (
            "no distances",
            "numa_alloc_distance(), arch/x86/mm/numa.c",
            "numa_alloc_distance(), mm/numa_memblks.c",
        ),
        (
            "cleanup",
            "numa_cleanup_meminfo(), arch/x86/mm/numa.c",
            "numa_cleanup_meminfo(), mm/numa_memblks.c",
        ),
        (
            "coverage",
            "numa_meminfo_cover_memory(), arch/x86/mm/numa.c",
            "memblock_validate_numa_coverage(), mm/memblock.c",
        ),
        ("numa", "numa_init(), arch/x86/mm/numa.c", ""),
        ("option", "numa_setup(), arch/x86/mm/numa.c", ""),
        ("no srat", "acpi_numa_init(), drivers/acpi/numa/srat.c", ""),
        ("dummy", "dummy_numa_init(), arch/x86/mm/numa.c", ""),
        (
            "kernel nodes",
            "numa_clear_kernel_node_hotplug(), arch/x86/mm/numa.c",
            "numa_clear_kernel_node_hotplug(), mm/numa_memblks.c",
        ),
        ("node data", "alloc_node_data(), arch/x86/mm/numa.c", "alloc_node_data(), mm/numa.c"),
        (
            "offline nodes",
            "free_area_init(), mm/page_alloc.c",
            "alloc_offline_node_data(), mm/numa.c",
        ),
        ("allocator", "should_skip_region(), mm/memblock.c", ""),
        (
            "movable",
            "find_zone_movable_pfns_for_nodes(), mm/page_alloc.c",
            "find_zone_movable_pfns_for_nodes(), mm/mm_init.c",
        ),
        ("zones", "free_area_init(), mm/page_alloc.c", "free_area_init(), mm/mm_init.c"),
        ("memory map pages", "memmap_init(), mm/page_alloc.c", "memmap_init(), mm/mm_init.c"),
        ("blocks", "offline_pages(), mm/memory_hotplug.c", ""),
        ("low pages", "alloc_low_pages(), arch/x86/mm/init.c", ""),
        ("sections", "sparse_init(), mm/sparse.c", ""),
        ("percpu", "setup_per_cpu_areas(), arch/x86/kernel/setup_percpu.c", ""),
    )
    for new in (new or old,)
}
"""Function and file behind each decision, by row: read in the four source trees."""


_PANICS = (
    ("alloc_low_pages", "low pages", "no memory for the page tables of the direct map"),
    ("subsection_map_init", "sections", "sections are left without a usage map for want of memory"),
    ("NULL pointer", "memory map pages", "a page of RAM without a node reaches the set-up of the memory map"),
    (" data", "node data", "no memory for a node's descriptor"),
    ("Cannot allocate", "zones", "no memory for the descriptor of a node without memory"),
    ("alloc_offline_node_data", "offline nodes", "no memory for the descriptor of a node without memory"),
    ("early exception", "distances", "the locality count leads far past the mapped SLIT"),
    ("page fault", "distances", "the locality count leads past the mapped SLIT"),
    ("percpu", "percpu", "no memory for the per-CPU areas"),
    ("Failed to allocate", "sections", "no memory for the sections and the memory map of all RAM"),
)
"""A sign of each panic the model foresees, the place it comes from, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One station: what firmware said, what the kernel did, because of what, and where that is decided.

    Args:
        chapter: the station.
        subject: which of several steps of the chapter; the same in two stories of one case.
        source: kernel function, file and version.
        findings: what the checks have to say about it.
    """

    chapter: Chapter
    subject: str
    firmware: str
    kernel: str
    because: str
    source: str
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form; empty fields are absent."""
        fields = {
            "chapter": self.chapter.value,
            "subject": self.subject,
            "firmware": self.firmware,
            "kernel": self.kernel,
            "because": self.because,
            "source": self.source,
            "findings": [finding.to_json() for finding in self.findings],
        }
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One boot explained.

    Args:
        title: kernel and source, `Linux v6.1, model`.
        steps: in boot order.
        lanes: the address map, firmware's lanes first.
        slit: the firmware's distances by proximity domain, where there is a readable SLIT.
        distances: the kernel's by node, where observed.
    """

    title: str
    steps: tuple[Step, ...]
    lanes: tuple[Lane, ...]
    slit: tuple[tuple[int, ...], ...]
    distances: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form: addresses in bytes, ranges half-open."""
        return {
            "title": self.title,
            "steps": [step.to_json() for step in self.steps],
            "map": {
                "axis": [
                    {"start": s.start, "end": s.end, "share": round(s.share, 6), "squeezed": s.squeezed}
                    for s in axis(self.lanes)
                ],
                "lanes": [
                    {"name": lane.name, "ranges": [bar.to_json() for bar in lane.bars]} for lane in self.lanes
                ],
            },
            "slit": [list(row) for row in self.slit],
            "distances": [list(row) for row in self.distances],
        }


def explain(
    case: Case, prediction: Prediction, policy: KernelPolicy, findings: Iterable[Finding] = ()
) -> Story:
    """The model's story of a boot, every step with its reason."""
    teller = _Teller(case, prediction, prediction.outcome, policy)
    steps = _with_findings(list(teller.steps()), findings)
    lanes = (*firmware_lanes(case, prediction), *outcome_lanes(prediction.outcome, prediction))
    return Story(
        title=f"Linux {prediction.outcome.kernel}, {prediction.outcome.source}",
        steps=tuple(steps),
        lanes=lanes,
        slit=_slit(case),
        distances=prediction.outcome.distances or (),
    )


def explain_observed(case: Case, prediction: Prediction, outcome: Outcome, policy: KernelPolicy) -> Story:
    """The story of a boot that was observed: the model's steps, but only what `outcome` holds as done."""
    teller = _Teller(case, prediction, outcome, policy)
    steps = tuple(step for step in teller.steps() if step.chapter in _OBSERVABLE)
    return Story(
        title=f"Linux {outcome.kernel}, {outcome.source}",
        steps=steps,
        lanes=(*firmware_lanes(case, prediction), *outcome_lanes(outcome)),
        slit=_slit(case),
        distances=outcome.distances or (),
    )


def render_story(story: Story, *, width: int, glyphs: Glyphs = UNICODE) -> RenderableType:
    """The map, the distances, and the story; the map is at most `width` columns wide."""
    return Group(
        Text(printable(story.title), style="bold"),
        Text(""),
        *draw(story.lanes, width=width, glyphs=glyphs),
        Text(""),
        *_matrices(story),
        *_told(story.steps),
    )


def render_stories(
    stories: tuple[Story, Story], comparison: Comparison, *, width: int, glyphs: Glyphs = UNICODE
) -> RenderableType:
    """Two stories side by side; `!` marks the steps in which the kernels do something else."""
    one, other = stories
    shared = [lane for lane in one.lanes if lane.name in ("e820", "SRAT")]
    lanes = [*shared]
    for name in ("reserved", "nodes", "zones", "blocks"):
        pair = [next((lane for lane in story.lanes if lane.name == name), None) for story in stories]
        both = [lane for lane in pair if lane is not None]
        if len(both) == 2 and both[0].bars == both[1].bars:
            lanes.append(both[0])
        else:
            lanes += [
                Lane(name=f"{name} {sign}", bars=lane.bars)
                for lane, sign in zip(pair, ("A", "B"), strict=True)
                if lane is not None
            ]
    columns = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), width=width)
    for heading in ("", "step", f"A: {one.title}", f"B: {other.title}"):
        columns.add_column(heading, overflow="fold")
    for subject, first, second in aligned(one.steps, other.steps):
        differ = first != second and UNOBSERVED not in (first, second)
        style = "yellow" if differ else ""
        columns.add_row(
            Text("!" if differ else "", "bold red"),
            Text(printable(subject)),
            Text(printable(first), style),
            Text(printable(second) if first != second else "the same", style or "dim"),
        )
    parts: list[RenderableType] = [
        Text(f"A: {printable(one.title)}    B: {printable(other.title)}", style="bold"),
        Text(""),
        *draw(lanes, width=width, glyphs=glyphs),
        Text(""),
        columns,
        Text(""),
    ]
    if comparison.differences:
        rows = ((d.field, d.where, d.expected, d.actual) for d in comparison.differences)
        parts.append(table("Differences in the outcome", ("field", "where", "A", "B"), rows))
    else:
        parts.append(Text("The outcomes agree in every field both observed."))
    return Group(*parts)


def render_behaviours(changes: Sequence[Change]) -> RenderableType:
    """The behaviours in which two rows of the model differ, whether or not this case shows them."""
    rows = ((change.title, change.before, change.after, change.source) for change in changes)
    return table("Behaviours that differ between the rows", ("behaviour", "A", "B", "source"), rows)


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Field verdicts and differences as JSON."""
    return {
        "fields": {name: verdict.value for name, verdict in comparison.fields.items()},
        "differences": [asdict(difference) for difference in comparison.differences],
    }


def aligned(one: Iterable[Step], other: Iterable[Step]) -> Iterator[tuple[str, str, str]]:
    """Subject and what each side did, in boot order; a step one side has not is `not observed` there."""
    sides = [{(step.chapter, step.subject): step for step in steps} for steps in (one, other)]
    order = list(Chapter)
    keys = sorted(dict.fromkeys((*sides[0], *sides[1])), key=lambda key: order.index(key[0]))
    for key in keys:
        done = [side[key].kernel if key in side else UNOBSERVED for side in sides]
        yield f"{key[0]}: {key[1]}" if key[1] else key[0].value, done[0], done[1]


_OBSERVABLE = frozenset(Chapter) - {Chapter.RESERVED, Chapter.ENTRY, Chapter.MEMORY_MAP}


class _Teller:
    """Tells the steps of one boot: what was done is read from `outcome`, the reasons from the prediction."""

    def __init__(self, case: Case, prediction: Prediction, outcome: Outcome, policy: KernelPolicy) -> None:
        self.case, self.prediction, self.outcome, self.policy = case, prediction, outcome, policy
        self.options = parse_cmdline(case.cmdline)
        self.movable_node = self.options.given(policy.hotplug_option)

    def steps(self) -> Iterator[Step]:
        yield from self._memory_map()
        yield from self._reserved()
        yield from self._entries()
        yield from self._domains()
        yield from self._distances()
        yield from self._numa()
        yield from self._marks()
        yield from self._allocations()
        yield from self._movable()
        yield from self._zones()
        yield from self._blocks()
        yield from self._end()

    def _step(
        self, chapter: Chapter, place: str, firmware: str, kernel: str, because: str, *, subject: str = ""
    ) -> Step:
        return Step(
            chapter=chapter,
            subject=subject,
            firmware=firmware,
            kernel=kernel,
            because=because,
            source=self._source(place),
        )

    def _source(self, place: str) -> str:
        files = _PLACES[place]
        if (found := files.get(self.policy.name)) is not None:
            return f"{found}, Linux {self.policy.name.removeprefix('v')}"
        return f"{files[V5_10.name]}, Linux 5.10 changed by {self.policy.source}"

    def _memory_map(self) -> Iterator[Step]:
        ram = [e for e in self.case.resolved().e820 if e.type is E820Type.USABLE]
        said = ", ".join(_listed([span(e.start, e.end) for e in ram]))
        memory = self.outcome.memory or ()
        kept = sum(region.end - region.start for region in memory)
        option = " as the command line changes it" if self.options.map_edits else ""
        yield self._step(
            Chapter.MEMORY_MAP,
            "memory map",
            f"usable RAM at {said or 'no address'}",
            f"{_mib(kept)} of RAM known to memblock" if memory else "no RAM known to memblock",
            f"whole usable pages of the e820 map{option}, the first page and 640 KiB-1 MiB left out",
        )

    def _reserved(self) -> Iterator[Step]:
        owners: dict[str, int] = {}
        for row in self.prediction.owners:
            owners[row.owner] = owners.get(row.owner, 0) + row.end - row.start
        order = "lowest" if self.prediction.bottom_up else "highest"
        if self.prediction.bottom_up:
            reason = (
                f"{self.policy.hotplug_option} is given, and nobody knows yet what is hot-pluggable: "
                "memory near the kernel image is the best guess"
            )
        else:
            reason = "the default; nothing yet says which memory is hot-pluggable"
        placed = ", ".join(dict.fromkeys(row.owner for row in self.case.resolved().placed))
        yield self._step(
            Chapter.RESERVED,
            "reserved",
            f"placed in memory: {placed}" if placed else "",
            "in use when the SRAT is parsed: "
            + (
                ", ".join(_listed([f"{owner} {_size(size)}" for owner, size in owners.items()]))
                or "not known"
            )
            + f"; until then allocates from the {order} free address",
            reason,
        )

    def _entries(self) -> Iterator[Step]:
        for entry in self.prediction.entries:
            yield self._step(
                Chapter.ENTRY,
                "walk" if entry.use is EntryUse.SKIPPED else "entry",
                f"domain {entry.firmware_pxm}: {span(entry.base, entry.base + entry.length)}, "
                f"{_size(entry.length)}{', hot-pluggable' if entry.hotplug else ''}",
                _did(entry),
                _why(entry, self.policy),
                subject=f"byte {entry.offset:#x}",
            )

    def _domains(self) -> Iterator[Step]:
        mapped = self.outcome.pxm_to_node
        if mapped:
            moved = any(pxm != nid for pxm, nid in mapped.items())
            yield self._step(
                Chapter.DOMAINS,
                "domains",
                f"{len(mapped)} proximity domain{'s' * (len(mapped) != 1)}",
                ", ".join(_listed([f"domain {p} is node {n}" for p, n in sorted(mapped.items())])),
                "a domain gets the lowest free node number when it first appears: processors in table "
                "order, then memory" + (", so the numbers differ" if moved else ""),
            )

    def _distances(self) -> Iterator[Step]:
        if self.case.table(b"SLIT") is None:
            return
        messages = "\n".join(self.outcome.messages)
        slit, distances = _slit(self.case), self.outcome.distances
        said = f"distances of {len(slit)} localities" if slit else "a SLIT whose matrix is not there"
        if "SLIT table looks invalid" in messages:
            did, why, place = (
                "dropped: 10 and 20 everywhere",
                "a diagonal is not 10, or a distance below 11",
                "slit",
            )
        elif "can't allocate distance table" in messages:
            did, why, place = (
                "dropped: 10 and 20 everywhere",
                "no memory free for the distance table",
                "no distances",
            )
        elif distances is None:
            did, why, place = UNOBSERVED, "", "distances"
        else:
            did, place = f"a table of {len(distances)} nodes", "distances"
            why = "distances of domains that have a node are taken as they are; others are 10 and 20"
        yield self._step(Chapter.DISTANCES, place, said, did, why)

    def _numa(self) -> Iterator[Step]:
        state, reason = self.outcome.numa, self.outcome.numa_reason
        if state is None:
            return
        did = {
            NumaState.SRAT: "nodes from the SRAT",
            NumaState.DUMMY: "SRAT not used: one node 0 with all memory",
            NumaState.OFF: "NUMA turned off: one node 0 with all memory",
        }[state]
        policy = self.policy
        why, place = {
            NumaReason.ACCEPTED: (
                f"every range is of one node, and what is left out of RAM is {policy.coverage.value}",
                "numa",
            ),
            NumaReason.NO_SRAT: ("there is no SRAT to use", "no srat"),
            NumaReason.NO_MEMORY_AFFINITY: ("no memory affinity entry was accepted", "no srat"),
            NumaReason.ZERO_LENGTH: ("an entry has length zero, which leaves no way to the next one", "walk"),
            NumaReason.BAD_SRAT: ("one entry is bad, and one bad entry spoils all", "entry"),
            NumaReason.OVERLAP: ("ranges of two nodes overlap", "cleanup"),
            NumaReason.COVERAGE: (
                f"too much RAM has no node; tolerated: {policy.coverage.value}",
                "coverage",
            ),
            NumaReason.TURNED_OFF: ("the command line turns it off", "option"),
            None: ("", "numa"),
        }.get(reason, (str(reason), "numa"))
        promised = sum(entry.hotplug for entry in self.prediction.entries)
        said = f"{len(self.prediction.entries)} memory entries, {promised} of them hot-pluggable"
        yield self._step(Chapter.NUMA, place, said, did, why)

    def _marks(self) -> Iterator[Step]:
        memory = self.outcome.memory
        if memory is None or self.outcome.numa is not NumaState.SRAT:
            return
        asked = sorted({e.nid for e in self.prediction.entries if e.hotplug and e.nid is not None})
        for nid in asked:
            marked = sum(r.end - r.start for r in memory if r.nid == nid and "hotplug" in r.flags)
            owned = sum(r.end - r.start for r in memory if r.nid == nid)
            if not owned:
                continue
            lost = self.prediction.kernel_nodes.get(nid)
            if marked:
                did, why = f"{_mib(marked)} of {_mib(owned)} marked", _mark_reason(self.policy)
            else:
                did = f"no mark on any of {_mib(owned)}"
                why = f"it already holds: {', '.join(lost)}" if lost else "the mark did not stay"
            yield self._step(
                Chapter.MARKS,
                "entry" if marked else "kernel nodes",
                f"node {nid} is hot-pluggable",
                did,
                why,
                subject=f"node {nid}",
            )

    def _allocations(self) -> Iterator[Step]:
        for data in self.outcome.node_data or ():
            if data.on_nid != data.nid:
                skip = (
                    "passes over hot-pluggable memory"
                    if self.prediction.skips_hotplug
                    else "finds no room there"
                )
                yield self._step(
                    Chapter.ALLOCATIONS,
                    "allocator" if self.prediction.skips_hotplug else "node data",
                    "",
                    f"descriptor of node {data.nid} on node {data.on_nid}",
                    f"the allocator {skip}",
                    subject=f"node {data.nid}",
                )
        if self.outcome is not self.prediction.outcome:
            return  # only the model names its allocations
        hot = [r for r in self.outcome.memory or () if "hotplug" in r.flags]
        inside = [
            a for a in self.prediction.allocations if any(a.start < r.end and r.start < a.end for r in hot)
        ]
        if hot:
            which = ", ".join(_listed(list(dict.fromkeys(a.purpose for a in inside))))
            if self.prediction.skips_hotplug:
                why = f"{self.policy.hotplug_option} makes the allocator pass over marked memory"
            else:
                why = "without the option the allocator does not look at the mark"
            yield self._step(
                Chapter.ALLOCATIONS,
                "allocator",
                f"{len(hot)} hot-pluggable range{'s' * (len(hot) != 1)}",
                f"allocated there: {which}" if inside else "nothing allocated there",
                why,
                subject="hot-pluggable memory",
            )

    def _movable(self) -> Iterator[Step]:
        starts = self.outcome.zone_movable_start
        if starts is None:
            return
        words = [w for w in self.case.cmdline.split() if w.startswith(("movable", "kernelcore"))]
        said = f"command line: {' '.join(words)}" if words else "no option on the command line"
        if not starts:
            why = (
                "no hot-pluggable mark is left for it"
                if self.movable_node
                else "the marks count only with movable_node, and no kernelcore= or movablecore= asks for it"
            )
            yield self._step(Chapter.MOVABLE, "movable", said, "no ZONE_MOVABLE", why)
        for nid, start in sorted(starts.items()):
            why = (
                "the lowest hot-pluggable address of the node "
                f"({self.policy.hotplug_start.value}), rounded up to 4 MiB"
                if self.movable_node
                else "kernelcore= or movablecore= spread over the nodes, rounded up to 4 MiB"
            )
            yield self._step(
                Chapter.MOVABLE,
                "movable",
                said,
                f"starts at {start:#x} and takes all of the node above",
                why,
                subject=f"node {nid}",
            )

    def _zones(self) -> Iterator[Step]:
        if self.outcome.zones:
            for nid in sorted({zone.nid for zone in self.outcome.zones}):
                zones = [z for z in self.outcome.zones if z.nid == nid]
                yield self._step(
                    Chapter.ZONES,
                    "zones",
                    "",
                    ", ".join(f"{z.zone} {span(z.start, z.end)}" for z in zones),
                    "DMA ends at 16 MiB and DMA32 at 4 GiB; ZONE_MOVABLE cuts the zone it starts in",
                    subject=f"node {nid}",
                )

    def _blocks(self) -> Iterator[Step]:
        blocks = self.outcome.blocks
        if not blocks:
            return
        counts: dict[str, int] = {}
        for run, count in block_runs(blocks):
            key = f"{'removable' if run.removable else 'not removable'}: {run.reason}"
            counts[key] = counts.get(key, 0) + count
        size = format_size(blocks[0].end - blocks[0].start)
        promised = [e for e in self.prediction.entries if e.hotplug and e.use is EntryUse.ACCEPTED]
        hot = sum(
            any(block.start < e.base + e.length and e.base < block.end for e in promised) for block in blocks
        )
        yield self._step(
            Chapter.BLOCKS,
            "blocks",
            f"{hot} of {len(blocks)} blocks of {size} in hot-pluggable ranges",
            f"{sum(block.removable for block in blocks)} can be removed ("
            + "; ".join(f"{count} {key}" for key, count in counts.items())
            + ")",
            "a block goes when all of it is RAM, in ZONE_MOVABLE, and free of boot-time allocations",
        )

    def _end(self) -> Iterator[Step]:
        if (panic := self.outcome.panic) is None:
            return
        place, why = next(
            ((place, why) for sign, place, why in _PANICS if sign in panic), ("", "the console log says more")
        )
        yield Step(
            chapter=Chapter.END,
            subject="",
            firmware="",
            kernel=f"panic: {panic}",
            because=why,
            source=self._source(place) if place else "no panic the model knows",
        )


def _with_findings(steps: list[Step], findings: Iterable[Finding]) -> list[Step]:
    """Each finding at the last step of its chapter, else at the last step before it."""
    order = list(Chapter)
    told: list[list[Finding]] = [[] for _ in steps]
    for finding in findings:
        wanted = order.index(_CHAPTER_OF.get(finding.id, Chapter.END))
        told[max(i for i, s in enumerate(steps) if order.index(s.chapter) <= wanted)].append(finding)
    return [
        Step(
            chapter=step.chapter,
            subject=step.subject,
            firmware=step.firmware,
            kernel=step.kernel,
            because=step.because,
            source=step.source,
            findings=tuple(found),
        )
        for step, found in zip(steps, told, strict=True)
    ]


def _did(entry: EntryVerdict) -> str:
    if entry.use is EntryUse.ACCEPTED:
        return f"memory of node {entry.nid}"
    node = "" if entry.nid is None else f", node {entry.nid} exists all the same"
    return f"no effect on RAM: {entry.use.value}{node}"


def _why(entry: EntryVerdict, policy: KernelPolicy) -> str:
    masked = ""
    if entry.pxm != entry.firmware_pxm:
        masked = f"; a revision 1 table has 8-bit domains, so {entry.firmware_pxm} is read as {entry.pxm}"
    reasons = {
        EntryUse.ACCEPTED: "enabled, long enough, and RAM lies in it",
        EntryUse.DISABLED: "the Enabled flag is clear",
        EntryUse.EMPTY: "its length is zero",
        EntryUse.WRAPPED: "base plus length passes 2^64",
        EntryUse.NOT_RAM: "no RAM of the memory map lies in it",
        EntryUse.REJECTED: "too short, or no node number or room is left for it; the whole SRAT is refused",
        EntryUse.SKIPPED: "an earlier entry or the command line had already disabled the SRAT",
    }
    return reasons[entry.use] + masked


def _mark_reason(policy: KernelPolicy) -> str:
    kept = "the Hot Pluggable flag" if policy.hotplug_marks is HotplugMarks.SRAT_HANDLER else "an early walk"
    exempt = {
        KernelExemption.NODE: "nothing in use lies on the node",
        KernelExemption.ENTRY: "nothing in use lies in the entry",
        KernelExemption.NONE: "nothing takes it away",
    }[policy.kernel_exemption]
    return f"{kept} sets the mark, and {exempt}"


def _slit(case: Case) -> tuple[tuple[int, ...], ...]:
    """The firmware's matrix, where the table holds it."""
    data = case.table(b"SLIT")
    if data is None:
        return ()
    try:
        slit = decode_slit(data)
    except DecodeError:
        return ()
    side = slit.localities
    if side * side != len(slit.entries):
        return ()
    return tuple(tuple(slit.entries[row * side : (row + 1) * side]) for row in range(side))


def _listed(items: Sequence[str]) -> list[str]:
    more = [f"and {len(items) - _LISTED} more"] if len(items) > _LISTED else []
    return [*items[:_LISTED], *more]


def _size(size: int) -> str:
    if size < 1 << 20:
        return f"{size} bytes" if size % 1024 else format_size(size)
    return format_size(size) if len(format_size(size)) <= 6 else _mib(size)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f}M"


def _matrices(story: Story) -> Iterator[RenderableType]:
    for title, rows in (
        ("SLIT, by domain", story.slit),
        ("Distances the kernel uses, by node", story.distances),
    ):
        if 1 < len(rows) <= _MATRIX:
            columns = ("", *(f"{i}>" for i in range(len(rows))))
            yield table(title, columns, ((i, *row) for i, row in enumerate(rows)))
        elif len(rows) > _MATRIX:
            yield Text(f"{title}: {len(rows)} x {len(rows)}, in full with --json\n")


def _told(steps: Sequence[Step]) -> Iterator[RenderableType]:
    number = 0
    chapter: Chapter | None = None
    entries = [step for step in steps if step.chapter is Chapter.ENTRY]
    hidden = {id(step) for step in entries[_LISTED:] if not step.findings}
    for step in steps:
        if id(step) in hidden:
            continue
        if step.chapter is not chapter:
            number, chapter = number + 1, step.chapter
            yield Text(f"{number}. {step.chapter.value}", style="bold")
        subject = f"{step.subject}: " if step.subject else ""
        if step.firmware:
            yield _line("firmware", subject + step.firmware)
        yield _line("kernel", step.kernel if step.firmware else subject + step.kernel, "bold")
        yield _line(
            "because", f"{step.because} [{step.source}]" if step.because else f"[{step.source}]", "dim"
        )
        for finding in step.findings:
            style = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
            text = f"{finding.signature}: {finding.where}: {finding.actual}"
            yield _line(finding.severity.value, text, style[finding.severity])
        if hidden and step is entries[_LISTED - 1]:
            yield Padding(
                Text(f"... and {len(hidden)} more entries, in full with --json", "dim"), (0, 0, 0, 2)
            )


def _line(label: str, text: str, style: str = "") -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"  {label}", "dim"), Text(printable(text), style))
    return grid
