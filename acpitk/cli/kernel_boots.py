"""The model against real kernels, for `acpitk diff model`: boots judged, counted, saved and minimised."""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from acpitk import klog
from acpitk.checks.differential import Verdict, compare
from acpitk.checks.finding import Finding
from acpitk.checks.replay import replay
from acpitk.cli.inputs import find_image
from acpitk.cli.output import emit, emit_json, note
from acpitk.corpus import StoredCase, save
from acpitk.errors import UsageError
from acpitk.fuzz.boots import Boot, BootCampaign, Booted, Judge, Tally, judged
from acpitk.images import build_for, predict_image
from acpitk.kernel.policy import KernelPolicy, nearest_policy
from acpitk.machine import Case
from acpitk.qemu.boots import Boots, unbootable
from acpitk.qemu.runner import BootEnd, find_qemu
from acpitk.report.text import render_findings, table

_PATIENCE = 4
"""A boot that timed out is tried once more with this many times the limit: a SLIT of many localities is read
for up to a minute under emulation."""
_MINIMISE = 40
"""Boots that making one case smaller may take."""
_NEWS = 15.0
"""Seconds between two lines of progress."""


def run(
    specs: Sequence[str],
    *,
    case: Case | None,
    iterations: int | None,
    time_limit: float | None,
    seed: int,
    start: int,
    jobs: int,
    seeds: tuple[Case, ...],
    out: Path,
    timeout: float,
    via: str,
    as_json: bool,
) -> int:
    """Boot `case`, or else fuzzed cases, on every kernel in `specs`, and report; the exit status.

    Raises:
        UsageError: neither a case nor a campaign, or a case that cannot be booted.
        ToolError: QEMU or a kernel is missing.
        KeyboardInterrupt: after the report on what was found until then.
    """
    find_qemu()
    if case is not None and (reasons := unbootable(case)):
        raise UsageError(f"this case cannot be booted: {reasons[0]}")
    stop, interrupted = threading.Event(), False
    with ExitStack() as open_:
        ways = [open_.enter_context(Boots(find_image(spec), via=via, note=note)) for spec in specs]
        campaign = BootCampaign(
            seed=seed,
            judges={each.image.name: _judge(each, timeout, stop) for each in ways},
            deliverable=lambda each: not unbootable(each),
            start=start,
            iterations=iterations,
            seeds=(case,) if case is not None else seeds,
        )
        report = _Report(campaign, out, jobs=jobs, own_case=case is not None)
        try:
            for booted in campaign.run(jobs=jobs, max_seconds=time_limit, cancel=stop.set):
                report.add(booted)
            report.minimise()
        except KeyboardInterrupt:
            interrupted = True
    if as_json:
        emit_json(report.document())
    else:
        report.emit()
    if interrupted:
        raise KeyboardInterrupt
    return int(bool(report.kept))


def row_for(kernel: str) -> KernelPolicy:
    """`nearest_policy`, saying so on stderr where the row is that of an older version.

    Raises:
        UsageError: as `nearest_policy`.
    """
    row = nearest_policy(kernel)
    if not re.match(rf"v?{re.escape(row.name.removeprefix('v'))}(?![0-9])", kernel):
        note(f"{kernel} has no row of its own: the model's is {row.name}, the nearest at or below")
    return row


def _judge(boots: Boots, timeout: float, stop: threading.Event) -> Judge:
    """Boots a case and compares fields and allocations with the model's row for the kernel."""
    image = boots.image
    row = row_for(image.name)

    def judge(case: Case) -> Boot:
        result = boots.boot(case, timeout=timeout, stop=stop)
        if result.ended is BootEnd.TIMEOUT:
            result = boots.boot(case, timeout=_PATIENCE * timeout, stop=stop)
        prediction, outcome = predict_image(case, image, row), result.outcome()
        requests = replay(
            klog.memblock_trace(result.console),
            klog.firmware_facts(result.console),
            outcome,
            prediction,
            max_numnodes=build_for(image, row).max_numnodes,
        )
        comparison = compare(prediction.outcome, outcome)
        return judged(comparison, requests, ended=result.ended.value, seconds=result.seconds, via=result.via)

    return judge


@dataclass(slots=True)
class _Kept:
    """The first boot that showed a finding, the file its case is in, and every iteration that showed it."""

    booted: Booted
    finding: Finding
    path: Path
    iterations: list[int] = field(default_factory=list)
    minimised: bool = False


class _Report:
    """What a campaign came to so far: counts, and the disagreements, saved as they come up."""

    def __init__(self, campaign: BootCampaign, out: Path, *, jobs: int, own_case: bool) -> None:
        self.kept: dict[tuple[str, str], _Kept] = {}
        self._campaign, self._out, self._jobs, self._own_case = campaign, out, jobs, own_case
        self._tallies = {kernel: Tally() for kernel in campaign.judges}
        self._next = campaign.start
        self._began = self._told = time.monotonic()
        self._seconds = 0.0

    def add(self, booted: Booted) -> None:
        """Count a boot, save what it found, and say now and then how it goes."""
        self._tallies[booted.kernel].add(booted.boot)
        last = booted.kernel == list(self._tallies)[-1]
        self._next = booted.iteration + last
        for finding in booted.boot.findings:
            key = (booted.kernel, finding.signature)
            if key not in self.kept:
                path = self._save(booted, booted.case, finding)
                self.kept[key] = _Kept(booted, finding, path)
                note(f"{booted.kernel}, iteration {booted.iteration}: {finding.signature}: {path}")
            self.kept[key].iterations.append(booted.iteration)
        now = time.monotonic()
        self._seconds = now - self._began
        if now - self._told >= _NEWS:
            self._told = now
            note(self._progress())

    def minimise(self) -> None:
        """Make every saved case smaller, by booting."""
        if self._own_case:
            return
        for (kernel, signature), kept in self.kept.items():
            note(f"{kernel}: minimising {signature} with up to {_MINIMISE} boots")
            case = self._campaign.minimised(kept.booted, signature, budget=_MINIMISE)
            path = self._save(kept.booted, case, kept.finding)
            if path != kept.path:
                kept.path.unlink(missing_ok=True)
            kept.path, kept.minimised = path, True

    def _save(self, booted: Booted, case: Case, finding: Finding) -> Path:
        how = " ".join(booted.mutators) or "a case as it was given"
        stored = StoredCase(
            case=case,
            provenance=f"acpitk diff model {booted.kernel} --seed {self._campaign.seed}, "
            f"iteration {booted.iteration}: {how}",
            findings=(finding.signature,),
            finding=finding.to_json() | {"oracle": f"boot {booted.kernel}"},
            kernel=booted.kernel,
        )
        digest = sha256(finding.signature.encode()).hexdigest()[:8]
        return save(self._out, stored, slug=f"{booted.kernel}-{finding.id}-{digest}")

    def _progress(self) -> str:
        boots = sum(tally.boots for tally in self._tallies.values())
        requests = sum(tally.requests for tally in self._tallies.values())
        agreed = sum(tally.agreed for tally in self._tallies.values())
        disagreed = sum(tally.disagreed for tally in self._tallies.values())
        return (
            f"{boots} boots, {boots / self._seconds:.2f} a second, {disagreed} disagree, "
            f"{agreed}/{requests} allocations agree, next iteration {self._next}"
        )

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "schema": 1,
            "seed": self._campaign.seed,
            "start": self._campaign.start,
            "next": self._next,
            "jobs": self._jobs,
            "seconds": round(self._seconds, 3),
            "kernels": {kernel: self._tally(tally) for kernel, tally in self._tallies.items()},
            "disagreements": [
                kept.finding.to_json()
                | {
                    "kernel": kernel,
                    "iterations": kept.iterations,
                    "case": str(kept.path),
                    "minimised": kept.minimised,
                    "replay": _replay(kernel, kept.path),
                }
                for (kernel, _), kept in self.kept.items()
            ],
        }

    def _tally(self, tally: Tally) -> dict[str, Any]:
        return {
            "boots": tally.boots,
            "seconds_each": round(tally.seconds / tally.boots, 3) if tally.boots else 0,
            "disagreed": tally.disagreed,
            "allocations": {"requests": tally.requests, "agreed": tally.agreed},
            "ended": dict(sorted(tally.ends.items())),
            "via": dict(sorted(tally.ways.items())),
            "fields": {
                name: {verdict.value.replace(" ", "_"): counts[verdict] for verdict in Verdict}
                for name, counts in tally.fields.items()
            },
        }

    def emit(self) -> None:
        """The tables for a person."""
        boots = sum(tally.boots for tally in self._tallies.values())
        rate = boots / self._seconds if self._seconds else 0.0
        emit(
            f"{boots} boots in {self._seconds:.0f} s ({rate:.2f} a second, {self._jobs} at a time), "
            f"seed {self._campaign.seed}, iterations {self._campaign.start} to {self._next - 1}\n",
            table(
                "Model against real kernels",
                ("kernel", "boots>", "s each>", "disagree>", "allocations agreed>", "boots ended", "via"),
                (self._kernel_row(kernel, tally) for kernel, tally in self._tallies.items()),
            ),
            table(
                "Fields: agree/differ/not observed",
                ("field", *(f"{kernel}>" for kernel in self._tallies)),
                _field_rows(self._tallies),
            ),
        )
        if self.kept:
            rows = (
                (kernel, len(kept.iterations), signature, _replay(kernel, kept.path))
                for (kernel, signature), kept in self.kept.items()
            )
            emit(table("Disagreements", ("kernel", "boots>", "finding", "replay"), rows))
            emit(render_findings([kept.finding for kept in self.kept.values()]))

    def _kernel_row(self, kernel: str, tally: Tally) -> tuple[object, ...]:
        each = f"{tally.seconds / tally.boots:.2f}" if tally.boots else "-"
        ends = ", ".join(f"{count} {end}" for end, count in sorted(tally.ends.items()))
        ways = ", ".join(f"{count} {way}" for way, count in sorted(tally.ways.items()))
        return kernel, tally.boots, each, tally.disagreed, f"{tally.agreed}/{tally.requests}", ends, ways


def _field_rows(tallies: Mapping[str, Tally]) -> Iterable[tuple[str, ...]]:
    names = dict.fromkeys(name for tally in tallies.values() for name in tally.fields)
    for name in names:
        yield (
            name,
            *(
                "/".join(str(tally.fields[name][verdict]) for verdict in Verdict)
                if name in tally.fields
                else "-"
                for tally in tallies.values()
            ),
        )


def _replay(kernel: str, path: Path) -> str:
    return f"acpitk diff model {kernel} {shlex.quote(str(path))}"
