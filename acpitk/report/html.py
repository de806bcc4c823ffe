"""Findings as one self-contained HTML file: no network, no clock; everything quoted in it is inert.

The frame is an autoescaping template. What is drawn when a finding is opened travels as JSON in a script
element that nothing runs, with every `<` escaped, and enters the page as text nodes only. A content security
policy allows the page's own style and script by hash and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from acpitk.checks.catalogue import RULES
from acpitk.checks.finding import Severity
from acpitk.errors import DecodeError
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case
from acpitk.outcome import Block
from acpitk.report.addressmap import Bar, Lane, Mark, axis, block_runs, outcome_lanes
from acpitk.report.explain import Chapter, Story, explain
from acpitk.report.summary import Summary
from acpitk.report.text import printable
from acpitk.tables.asl import render

_MATRIX = 64
"""Localities or nodes up to which a matrix is drawn."""
_ENTRIES = 40
"""SRAT entries told one by one; the map and its table have all."""
_SOURCE, _CONSOLE = 64 << 10, 24 << 10
"""Characters of ASL source and of console lines kept for each finding."""
_CHART_LEFT, _CHART_RIGHT, _CHART_TOP, _CHART_BOTTOM = 46, 470, 12, 126
_MARKS = tuple(Mark)
_CONSOLE_LINE = re.compile(
    r"SRAT|SLIT|NUMA|numa|NODE_DATA|Zone ranges|Movable|node +\d+:|\[mem 0x|hotplug|Memory:"
    r"|[Pp]anic|PANIC|BUG|WARNING|Oops"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One finding and its case.

    Args:
        case: the smallest case known to show it.
        finding: as `Finding.to_json` writes it; fields that are missing or odd show as they are.
        file: where it is stored, in words.
        kernel: the row of the model whose picture is drawn.
        provenance: where the case comes from, in words.
        count: cases of the campaign that showed it; None is not known.
        commands: title and command line, for a shell.
        console: a boot's console log, whole.
    """

    case: Case
    finding: Mapping[str, Any]
    file: str
    kernel: str
    provenance: str = ""
    count: int | None = None
    commands: tuple[tuple[str, str], ...] = ()
    console: str = ""


def render_report(
    entries: Iterable[Entry], *, title: str, summary: Summary | None = None, problems: Sequence[str] = ()
) -> str:
    """The report: worst findings first, then by signature.

    Args:
        problems: a line for each file that could not be read.
    """
    ordered = sorted(entries, key=lambda e: (_severity(e).rank, _words(e.finding.get("signature"))))
    environment = _environment()
    document = environment.get_template("report.html").render(
        title=printable(title),
        subtitle=_subtitle(ordered, summary),
        style_hash=_hash(environment.get_template("report.css").render()),
        script_hash=_hash(environment.get_template("report.js").render()),
        tiles=list(_tiles(ordered, summary)),
        charts=list(_charts(summary)),
        counts=list(_counts(summary)),
        levels=[(level.value, sum(_severity(e) is level for e in ordered)) for level in Severity],
        rules=sorted(Counter(_words(e.finding.get("id")) for e in ordered).items()),
        findings=[_frame(entry) for entry in ordered],
        problems=[printable(line) for line in problems],
        data=embedded({"marks": [m.value for m in _MARKS], "findings": [_picture(e) for e in ordered]}),
        footer="Written by acpitk. The pictures are the model's; replaying a finding with --boot proves it.",
    )
    return document + "\n"


def second_row(finding: Mapping[str, Any], kernel: str) -> str | None:
    """The row beside `kernel` in a difference between two rows of the model."""
    kernels = finding.get("kernels")
    if not str(finding.get("id")).startswith("DIFF-") or not isinstance(kernels, list):
        return None
    return next(
        (name for name in kernels if isinstance(name, str) and name in POLICIES and name != kernel), None
    )


def embedded(document: object) -> str:
    """JSON that can stand in a script element: no `<`, `>` or `&`, so it neither ends nor comments it."""
    text = json.dumps(document, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def console_excerpt(console: str) -> str:
    """The lines of a console log that speak of memory and nodes, or of a crash."""
    lines = [printable(line) for line in console.splitlines() if _CONSOLE_LINE.search(line)]
    text = "\n".join(lines)
    return text if len(text) <= _CONSOLE else f"{text[:_CONSOLE]}\n... shortened"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("acpitk.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _words(value: object) -> str:
    return "" if value is None else printable(str(value))


def _severity(entry: Entry) -> Severity:
    try:
        return Severity(str(entry.finding.get("severity")))
    except ValueError:
        return Severity.NOTE


def _subtitle(entries: Sequence[Entry], summary: Summary | None) -> str:
    kernels = sorted({kernel for entry in entries for kernel in _kernels(entry)})
    parts = [f"Linux rows {', '.join(kernels)}"] if kernels else []
    if summary is not None:
        parts.insert(0, f"Fuzzing campaign, seed {summary.seed}")
    return ". ".join(parts)


def _kernels(entry: Entry) -> list[str]:
    kernels = entry.finding.get("kernels")
    return [_words(name) for name in kernels] if isinstance(kernels, list) else [_words(entry.kernel)]


def _tiles(entries: Sequence[Entry], summary: Summary | None) -> Iterator[tuple[str, str]]:
    if summary is not None:
        yield "Cases", f"{summary.iterations:,}"
        yield "Wall time", f"{summary.seconds:,.1f} s"
        if summary.seconds:
            yield "Cases a second", f"{summary.iterations / summary.seconds:,.0f}"
        boots = sum(count for name, count in summary.runs.items() if name.startswith("boot"))
        if boots:
            yield "Boots", f"{boots:,}"
    yield "Findings", f"{len(entries):,}"
    for level in (Severity.ERROR, Severity.WARNING):
        yield f"{level.value.capitalize()}s", f"{sum(_severity(e) is level for e in entries):,}"


def _charts(summary: Summary | None) -> Iterator[dict[str, Any]]:
    """Curves over time; none where there are fewer than two points."""
    if summary is None or len(summary.timeline) < 2 or summary.timeline[-1][0] <= 0:
        return
    for index, what in ((1, "Cases"), (3, "Behaviours seen"), (2, "Findings known")):
        end = summary.timeline[-1][0]
        top = max(max(point[index] for point in summary.timeline), 1)
        wide, high = _CHART_RIGHT - _CHART_LEFT, _CHART_BOTTOM - _CHART_TOP
        points = [(0.0, 0), *((point[0], point[index]) for point in summary.timeline)]
        yield {
            "title": f"{what} over time",
            "text": f"{what} over time: {top:,} after {end:.0f} seconds",
            "seconds": f"{end:.0f}",
            "rows": [
                (_CHART_BOTTOM - high * part // 2, f"{top * part // 2:,}")
                for part in ((0, 1, 2) if top > 1 else (0, 2))
            ],
            "points": " ".join(
                f"{_CHART_LEFT + wide * at / end:.1f},{_CHART_BOTTOM - high * value / top:.1f}"
                for at, value in points
            ),
        }


def _counts(summary: Summary | None) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    if summary is None:
        return
    for caption, counts in (("Oracle runs", summary.runs), ("Mutators applied", summary.mutators)):
        if counts:
            rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            yield caption, [(printable(name), f"{count:,}") for name, count in rows]


def _frame(entry: Entry) -> dict[str, Any]:
    """What of a finding stands in the page itself, and is searched."""
    found = entry.finding
    rule = RULES.get(str(found.get("id")))
    offset = found.get("offset")
    place = f" (byte {offset:#x})" if isinstance(offset, int) else ""
    facts = [
        ("Where", _words(found.get("where")) + place),
        ("Expected", _words(found.get("expected"))),
        ("Actual", _words(found.get("actual"))),
        ("Why", "" if rule is None else rule.explanation),
        ("Advice", _words(found.get("advice"))),
        ("Mechanism", _words(found.get("mechanism"))),
        ("Found by", _words(found.get("oracle"))),
        ("Case", _words(entry.provenance)),
    ]
    literal = [("Command line", _words(entry.case.cmdline)), ("File", _words(entry.file))]
    tally = [] if entry.count is None else [f"{entry.count:,} case{'s' * (entry.count != 1)}"]
    return {
        "id": _words(found.get("id")),
        "severity": _severity(entry).value,
        "signature": _words(found.get("signature", found.get("id"))),
        "title": rule.title if rule is not None else "",
        "tally": " · ".join([*tally, ", ".join(_kernels(entry))]),
        "facts": [(label, value) for label, value in facts if value],
        "literal": [(label, value) for label, value in literal if value],
        "commands": [(title, printable(line)) for title, line in entry.commands],
    }


def _picture(entry: Entry) -> dict[str, Any]:
    """What is drawn when the finding is opened. Addresses are hexadecimal text, exact up to 2^64."""
    policy = POLICIES[entry.kernel]
    prediction = predict(entry.case, policy)
    story = explain(entry.case, prediction, policy)
    steps, left_out = _told(story)
    other = second_row(entry.finding, entry.kernel)
    lanes = (*story.lanes, *(_changed(entry.case, story, other) if other else ()))
    return {
        "kernel": f"Linux {entry.kernel}{f' and {other}' if other else ''}, model",
        "axis": [[f"{s.start:x}", f"{s.end:x}", round(s.share, 9), int(s.squeezed)] for s in axis(lanes)],
        "lanes": [_lane(lane) for lane in lanes],
        "blocks": [_run(run, count) for run, count in block_runs(prediction.outcome.blocks or ())],
        "slit": [list(row) for row in story.slit] if len(story.slit) <= _MATRIX else [],
        "distances": [list(row) for row in story.distances] if len(story.distances) <= _MATRIX else [],
        "steps": steps,
        "left_out": left_out,
        "tables": [_table(table) for table in entry.case.tables],
        "console": console_excerpt(entry.console),
    }


def _changed(case: Case, story: Story, other: str) -> Iterator[Lane]:
    """The lanes that are others on row `other`."""
    prediction = predict(case, POLICIES[other])
    for lane in outcome_lanes(prediction.outcome, prediction):
        if lane not in story.lanes:
            yield Lane(name=f"{lane.name} {other}", bars=lane.bars)


def _lane(lane: Lane) -> list[Any]:
    return [lane.name, [_bar(bar) for bar in lane.bars]]


def _bar(bar: Bar) -> list[Any]:
    return [
        f"{bar.start:x}",
        f"{bar.end:x}",
        printable(bar.label),
        _MARKS.index(bar.mark),
        printable(bar.detail),
        printable(bar.short),
    ]


def _run(block: Block, count: int) -> list[Any]:
    mark = Mark.REMOVABLE if block.removable else Mark.KEPT if block.certain else Mark.UNCERTAIN
    home = "no single zone" if block.zone is None else f"node {block.nid}, zone {block.zone}"
    size = (block.end - block.start) // count
    return [f"{block.start:x}", f"{size:x}", count, _MARKS.index(mark), block.reason, home]


def _told(story: Story) -> tuple[list[list[str]], int]:
    steps, entries = [], 0
    for step in story.steps:
        entries += step.chapter is Chapter.ENTRY
        if step.chapter is not Chapter.ENTRY or entries <= _ENTRIES:
            words = (step.chapter.value, step.subject, step.firmware, step.kernel, step.because, step.source)
            steps.append([printable(word) for word in words])
    return steps, max(0, entries - _ENTRIES)


def _table(table: bytes) -> dict[str, Any]:
    name = table[:4].decode("ascii", "replace")
    try:
        source = render(table)
    except DecodeError:
        source = ""  # neither SRAT nor SLIT, or too short for one: the bytes say it all
    if len(source) > _SOURCE:
        source = f"{source[:_SOURCE]}\n... shortened: acpitk gen --from writes all of it"
    return {
        "name": printable(name),
        "size": len(table),
        "bytes": base64.b64encode(table).decode(),
        "source": "\n".join(printable(line) for line in source.splitlines()),
    }
