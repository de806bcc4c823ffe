"""A finding as a text that a maintainer can act on: what happens, how to repeat it, where, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from acpitk.checks.catalogue import RULES
from acpitk.checks.crash import trace_words
from acpitk.checks.finding import Finding
from acpitk.crashes import Crash
from acpitk.errors import DecodeError
from acpitk.kernel.prediction import Prediction
from acpitk.machine import Case, Machine
from acpitk.outcome import Outcome
from acpitk.ranges import format_size
from acpitk.report.explain import Chapter, Step
from acpitk.report.text import printable
from acpitk.tables.slit import decode_slit
from acpitk.tables.srat import MemoryAffinity, MemoryFlags, decode_srat

_REPORT_LINES = 60
"""Lines of a kernel's report that are quoted."""
_ENTRIES = 40
_WHY = (Chapter.NUMA, Chapter.MARKS, Chapter.MOVABLE, Chapter.END)
"""Chapters that are told in any case; of the others what a finding hangs on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of one boot.

    Args:
        kernel: name of the kernel and of its row in the model.
        version: the release its banner states.
        outcome: as observed.
        prediction: the model's, for this image.
        crashes: the kernel's reports, the death last.
        findings: `BOOT-*` and `DIFF-*`.
        foretold: `POL-*`, of the prediction.
        console: the whole log.
        via: the way it was run, as `qemu.runner.Via` calls it.
    """

    kernel: str
    version: str
    outcome: Outcome
    prediction: Prediction
    crashes: tuple[Crash, ...]
    findings: tuple[Finding, ...]
    foretold: tuple[Finding, ...]
    console: str
    via: str = "fresh"

    @property
    def death(self) -> Crash | None:
        """What the kernel died of, None where it lived."""
        return next((crash for crash in self.crashes if crash.fatal), None)

    @property
    def words(self) -> str:
        """The fate on one line: how it died, or what NUMA and ZONE_MOVABLE came to."""
        if (crash := self.death) is not None:
            return f"{crash.kind}: {crash.cause}"
        if self.outcome.numa is None:
            return "not seen to its end"
        warned = "".join(f", warns {crash.cause}" for crash in self.crashes)
        movable = self.outcome.zone_movable_start
        zones = ", ".join(f"node {nid} from {at:#x}" for nid, at in sorted((movable or {}).items()))
        reason = f" ({self.outcome.numa_reason})" if self.outcome.numa_reason else ""
        return f"boots, NUMA {self.outcome.numa}{reason}, ZONE_MOVABLE {zones or 'none'}{warned}"

    def shows(self, signature: str) -> bool:
        """Whether this boot has the finding; what is foretold counts where boot and model agree."""
        agrees = not any(finding.id.startswith("DIFF-") for finding in self.findings)
        return any(f.signature == signature for f in (*self.findings, *(self.foretold if agrees else ())))


def dossier(
    case: Case,
    *,
    finding: Finding,
    fates: Sequence[Fate],
    steps: Iterable[Step],
    files: Sequence[str],
    provenance: str,
) -> str:
    """The text, in Markdown.

    Args:
        case: the minimal case.
        finding: what it shows.
        fates: one for each kernel that was booted.
        steps: the model's story on the kernel that shows it, see `explain`.
        files: what lies beside the text, one line each.
        provenance: how the case came about, in words.
    """
    sections = (
        _head(finding, fates),
        _reproducer(case, files),
        _kernels(finding, fates),
        _report(finding, fates),
        _mechanism(finding, steps),
        [f"Where the case comes from: {printable(provenance).rstrip('.')}."] if provenance else [],
    )
    return "\n\n".join("\n".join(section).strip() for section in sections if section) + "\n"


def _head(finding: Finding, fates: Sequence[Fate]) -> list[str]:
    affected = ", ".join(fate.version for fate in fates if fate.shows(finding.signature))
    rule = RULES.get(finding.id)
    return [
        f"# {printable(finding.signature)}",
        "",
        f"{rule.title.capitalize() if rule else finding.id}. Severity: {finding.severity}."
        + (f" Shown by: {affected}." if affected else ""),
        "",
        f"- where: {printable(finding.where)}",
        f"- expected: {printable(finding.expected)}",
        f"- actual: {printable(finding.actual)}",
        f"- advice: {printable(finding.advice)}",
    ]


def _reproducer(case: Case, files: Sequence[str]) -> list[str]:
    machine = case.machine
    guest = (
        "a memory map that no guest has"
        if isinstance(machine, Machine)
        else f"QEMU q35, {format_size(machine.memory)} of RAM"
        + (f", initrd of {machine.initrd} bytes" if machine.initrd else "")
    )
    lines = [
        "## Minimal reproducer",
        "",
        f"Machine: {guest}. Kernel command line: `{printable(case.cmdline)}`."
        if case.cmdline
        else f"Machine: {guest}. No kernel argument of its own.",
        "",
    ]
    for table in case.tables:
        lines += [*_table_lines(table), ""]
    return [*lines, "Beside this text:", "", *(f"- {line}" for line in files)]


def _table_lines(table: bytes) -> Iterator[str]:
    """One line for each entry of an SRAT, each row of a SLIT; others by their size."""
    name = table[:4].decode("latin-1")
    try:
        if name == "SRAT":
            srat = decode_srat(table)
            yield f"SRAT, revision {srat.header.revision}, {len(table)} bytes:"
            yield ""
            for entry in srat.entries[:_ENTRIES]:
                yield f"- {_entry(entry)}"
            if (more := len(srat.entries) - _ENTRIES) > 0:
                yield f"- and {more} more"
            if srat.trailing:
                yield f"- then {len(srat.trailing)} bytes that are no entry: {srat.trailing[:16].hex(' ')}"
            return
        if name == "SLIT":
            slit = decode_slit(table)
            held = len(table) - 44
            yield f"SLIT, {len(table)} bytes, {slit.localities:#x} localities by its count."
            side = min(slit.localities, 8)
            yield from [""] if side * side <= held else []
            for row in range(side if side * side <= held else 0):
                yield f"- {' '.join(str(slit.distance(row, column)) for column in range(side))}"
            return
    except DecodeError:
        pass
    yield f"{printable(name)}, {len(table)} bytes."


def _entry(entry: object) -> str:
    if not isinstance(entry, MemoryAffinity):
        fields = ((name, getattr(entry, name, None)) for name in ("proximity_domain", "apic_id", "x2apic_id"))
        told = [f"{name.replace('_', ' ')} {value}" for name, value in fields if value is not None]
        flags = getattr(entry, "flags", None)
        told += ["not enabled"] if flags is not None and not int(flags) & 1 else []
        return f"{type(entry).__name__}: {', '.join(told) or 'no field that Linux reads'}"
    words = [flag.name.lower().replace("_", "-") for flag in MemoryFlags if flag in entry.flags and flag.name]
    span = f"{entry.base:#x}-{entry.base + entry.length:#x}"
    return f"memory, domain {entry.proximity_domain}: {span} {' '.join(words) or 'not enabled'}"


def _kernels(finding: Finding, fates: Sequence[Fate]) -> list[str]:
    if not fates:
        return []
    rows = [
        f"| {fate.version} | {'yes' if fate.shows(finding.signature) else 'no'} | {printable(fate.words)} |"
        for fate in fates
    ]
    return ["## Kernels", "", "| release | shows it | what the boot came to |", "|---|---|---|", *rows]


def _report(finding: Finding, fates: Sequence[Fate]) -> list[str]:
    """The kernel's own words, from the first boot that shows the finding."""
    for fate in fates:
        for crash in fate.crashes:
            if crash.fatal and fate.shows(finding.signature) and crash.lines:
                quoted = [printable(line.rstrip()) for line in crash.lines[:_REPORT_LINES]]
                trace = [f"Call trace, outwards: {trace_words(crash)}.", ""] if crash.trace else []
                return [f"## What {fate.version} prints", "", *trace, "```text", *quoted, "```"]
    return []


def _mechanism(finding: Finding, steps: Iterable[Step]) -> list[str]:
    told = [
        f"- {step.chapter}{f' ({step.subject})' if step.subject else ''}: {step.kernel}"
        + (f", because {step.because}" if step.because else "")
        + f" [{step.source}]"
        for step in steps
        if step.chapter in _WHY or any(each.id == finding.id for each in step.findings)
    ]
    rule = RULES.get(finding.id)
    why = [printable(rule.explanation), ""] if rule else []
    return ["## Mechanism", "", *why, *(printable(line) for line in told)] if why or told else []
