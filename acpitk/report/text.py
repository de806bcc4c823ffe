"""Predictions, outcomes and findings as terminal text: values in, rich renderables out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from acpitk.checks.differential import Comparison
from acpitk.checks.finding import Finding, Severity
from acpitk.kernel.prediction import EntryVerdict, Prediction
from acpitk.outcome import Block, NumaState, Outcome
from acpitk.ranges import readable_size

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_STATES = {
    NumaState.SRAT: "NUMA from the SRAT",
    NumaState.DUMMY: "one dummy node, SRAT not used",
    NumaState.OFF: "NUMA turned off",
}


def printable(text: str) -> str:
    """`text` with everything a terminal could act on written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """A titled table and an empty line; a column whose heading ends in `>` is flush right."""
    out = Table(box=None, pad_edge=False, header_style="dim", show_header=any(columns))
    for column in columns:
        justify: JustifyMethod = "right" if column.endswith(">") else "left"
        out.add_column(column.rstrip(">"), justify=justify, overflow="fold")
    for row in rows:
        out.add_row(*(Text(printable(str(cell))) for cell in row))
    return Group(Text(printable(title), style="bold"), out, Text(""))


def span(start: int, end: int) -> str:
    """A half-open range in bytes."""
    return f"{start:#x}-{end:#x}"


def render_prediction(prediction: Prediction) -> RenderableType:
    """The model's outcome, and why."""
    parts = [render_outcome(prediction.outcome)]
    if prediction.entries:
        columns = ("offset>", "domain>", "node>", "range", "size>", "hotplug", "used as")
        rows = (_entry_row(entry) for entry in prediction.entries)
        parts.append(table("Memory affinity entries as the kernel walked them", columns, rows))
    if prediction.kernel_nodes:
        nodes = sorted(prediction.kernel_nodes.items())
        parts.append(
            table(
                "Hotplug lost: the kernel already used memory on these nodes",
                ("node>", "because of"),
                ((nid, ", ".join(owners)) for nid, owners in nodes),
            )
        )
    return Group(*parts)


def render_outcome(outcome: Outcome) -> RenderableType:
    """What was observed of a boot; what was not observed does not appear."""
    return Group(Text(_headline(outcome), style="bold"), Text(""), *_sections(outcome))


def render_comparison(comparison: Comparison) -> RenderableType:
    """Each field's verdict, then every difference."""
    expected, actual = (" ".join(side) for side in (comparison.expected, comparison.actual))
    parts = [
        table(
            f"{expected} against {actual}",
            ("field", "verdict"),
            ((name, verdict.value) for name, verdict in comparison.fields.items()),
        )
    ]
    if comparison.differences:
        rows = ((d.field, d.where, d.expected, d.actual) for d in comparison.differences)
        parts.append(table("Differences", ("field", "where", expected, actual), rows))
    return Group(*parts)


def render_findings(findings: Sequence[Finding]) -> RenderableType:
    """Findings, worst first, each with expectation, observation, advice and mechanism."""
    if not findings:
        return Text("No findings.")
    parts: list[RenderableType] = []
    for finding in sorted(findings, key=lambda f: f.severity.rank):
        head = Text(f"{finding.severity.value} ", style=_STYLES[finding.severity])
        head.append(printable(finding.signature), style="bold")
        place = finding.where if finding.offset is None else f"{finding.where} (byte {finding.offset:#x})"
        head.append(f"  {printable(place)}", style="default")
        parts.append(head)
        labels = ("expected", "actual", "advice", "mechanism")
        details = [(label, getattr(finding, label)) for label in labels]
        details.append(("kernels", ", ".join(finding.kernels)))
        parts += [Text(f"  {label:<10}{printable(text)}") for label, text in details if text]
    counts = ", ".join(_count(findings, severity) for severity in Severity)
    return Group(*parts, Text(f"Findings: {counts}"))


def _count(findings: Iterable[Finding], severity: Severity) -> str:
    number = sum(finding.severity is severity for finding in findings)
    return f"{number} {severity.value}{'' if number == 1 else 's'}"


def _headline(outcome: Outcome) -> str:
    state = "NUMA not observed" if outcome.numa is None else _STATES[outcome.numa]
    why = "" if outcome.numa_reason is None else f" ({outcome.numa_reason.value})"
    return f"Linux {printable(outcome.kernel)}, {outcome.source}: {state}{why}"


def _sections(outcome: Outcome) -> Iterator[RenderableType]:
    if outcome.panic is not None:
        yield Text(f"Kernel panic: {printable(outcome.panic)}\n", style="bold red")
    if outcome.pxm_to_node:
        pairs = sorted(outcome.pxm_to_node.items())
        if any(domain != nid for domain, nid in pairs):
            yield table("Proximity domains", ("domain>", "node>"), pairs)
    if outcome.memory is not None:
        yield table(
            "Memory (memblock)",
            ("node>", "range", "size>", "flags"),
            (
                (
                    "-" if r.nid is None else r.nid,
                    span(r.start, r.end),
                    readable_size(r.end - r.start),
                    ",".join(r.flags),
                )
                for r in outcome.memory
            ),
        )
    if outcome.node_data:
        yield table(
            "Node data (pg_data_t)",
            ("node>", "range", "on node>"),
            ((n.nid, span(n.start, n.end), n.on_nid) for n in outcome.node_data),
        )
    if outcome.zones is not None:
        yield table(
            "Zones",
            ("node>", "zone", "range", "size>"),
            ((z.nid, z.zone, span(z.start, z.end), readable_size(z.end - z.start)) for z in outcome.zones),
        )
    if outcome.blocks is not None:
        yield table(
            "Memory blocks",
            ("node>", "zone", "range", "blocks>", "removable", "reason"),
            _block_rows(outcome.blocks),
        )
    if outcome.distances is not None and len(outcome.distances) > 1:
        nodes = range(len(outcome.distances))
        yield table(
            "Distances",
            ("node>", *(f"{n}>" for n in nodes)),
            ((n, *row) for n, row in zip(nodes, outcome.distances, strict=True)),
        )
    if outcome.messages:
        yield table("Messages", ("",), ((message,) for message in outcome.messages))


def _block_rows(blocks: Sequence[Block]) -> Iterator[Sequence[object]]:
    """One row for each run of neighbouring blocks that are alike."""
    runs: list[list[Block]] = []
    for block in blocks:
        if runs and _continues(runs[-1][-1], block):
            runs[-1].append(block)
        else:
            runs.append([block])
    for run in runs:
        first, last = run[0], run[-1]
        yield (
            "-" if first.nid is None else first.nid,
            first.zone or "-",
            span(first.start, last.end),
            len(run),
            "yes" if first.removable else "no" if first.certain else "perhaps",
            first.reason,
        )


def _continues(last: Block, block: Block) -> bool:
    return last.end == block.start and replace(last, start=block.start, end=block.end) == block


def _entry_row(entry: EntryVerdict) -> Sequence[object]:
    domain = str(entry.pxm) if entry.pxm == entry.firmware_pxm else f"{entry.firmware_pxm}->{entry.pxm}"
    return (
        f"{entry.offset:#x}",
        domain,
        "-" if entry.nid is None else entry.nid,
        span(entry.base, entry.base + entry.length),
        readable_size(entry.length),
        "yes" if entry.hotplug else "no",
        entry.use.value,
    )
