"""`acpitk diff --oracle`: two kernels' own code on one case or on many, or the model against one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.text import Text

from acpitk.checks.differential import RULE_FIELDS, Comparison, Verdict, compare
from acpitk.checks.differential import findings as differences
from acpitk.checks.finding import Finding, Severity
from acpitk.cli.inputs import find_image
from acpitk.cli.oracles import KERNEL, SIZED_BY_BUILD, kernel_oracle
from acpitk.cli.output import emit, emit_json
from acpitk.corpus import StoredCase, save
from acpitk.errors import ToolError, UsageError
from acpitk.fuzz.campaign import Campaign, CampaignResult, Found, Oracle
from acpitk.fuzz.sweep import sweep
from acpitk.kernel.boot import boot as model_boot
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case
from acpitk.oracle.judge import Judge, large_slit
from acpitk.oracle.store import find_oracle
from acpitk.qemu.argv import undeliverable
from acpitk.qemu.image import SUITES
from acpitk.qemu.runner import boot
from acpitk.report.text import printable, render_comparison, table

MODEL = "model"


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both kernels' code on the same cases."""

    old: Judge
    new: Judge

    def sift(self, cases: Sequence[Case]) -> list[int]:
        self.old.ahead(cases)
        self.new.ahead(cases)
        return [number for number, case in enumerate(cases) if not large_slit(case) and self.check(case)]

    def check(self, case: Case) -> list[Finding]:
        before, after = self.old.report(case), self.new.report(case)
        comparison = compare(self.old.outcome_of(before, case), self.new.outcome_of(after, case))
        found = differences(comparison, severity=Severity.WARNING)
        return [finding for finding in found if finding.id not in SIZED_BY_BUILD]


def run(
    old: str,
    new: str,
    *,
    case: Case | None,
    campaign: Campaign,
    fuzzing: bool,
    jobs: int,
    out: Path,
    timeout: float,
    as_json: bool,
) -> int:
    """Compare, render, and return the exit status."""
    if case is not None:
        return _one(old, new, case, as_json)
    if not fuzzing:
        raise UsageError("--oracle compares on cases: give one, or --campaign N")
    if old == MODEL:
        oracle, sift = kernel_oracle(build := find_oracle(new)), Judge(build).sift
    else:
        pair = _Pair(Judge(find_oracle(old)), Judge(find_oracle(new)))
        oracle, sift = Oracle(name=KERNEL, check=pair.check), pair.sift
    result, interrupted = CampaignResult(), False
    try:
        for so_far in sweep(replace(campaign, oracles=(oracle,)), sift, jobs=jobs):
            result = so_far
    except KeyboardInterrupt:
        interrupted = True
    _report(old, new, oracle, result, campaign.seed, out, timeout, as_json)
    if interrupted:
        raise KeyboardInterrupt
    return int(bool(result.found))


def _one(old: str, new: str, case: Case, as_json: bool) -> int:
    after, _ = Judge(build := find_oracle(new)).logged(case)
    before = (
        model_boot(case, POLICIES[build.row]) if old == MODEL else Judge(find_oracle(old)).logged(case)[0]
    )
    comparison = compare(before, after)
    if as_json:
        emit_json({"schema": 1, "from": old, "to": new} | _document(comparison))
    else:
        emit(render_comparison(comparison))
    return int(not comparison.agrees)


def _document(comparison: Comparison) -> dict[str, Any]:
    return {
        "fields": {name: verdict.value for name, verdict in comparison.fields.items()},
        "differences": [asdict(difference) for difference in comparison.differences],
    }


def _report(
    old: str,
    new: str,
    oracle: Oracle,
    result: CampaignResult,
    seed: int,
    out: Path,
    timeout: float,
    as_json: bool,
) -> None:
    rows = []
    for found in sorted(result.found, key=lambda each: -each.count):
        path = _save(out, found, old, new, seed)
        rows.append(
            {
                "id": found.finding.id,
                "cause": found.finding.cause,
                "count": found.count,
                "case": str(path),
                "minimised": found.minimised,
                "confirmed": _confirmed(old, new, oracle, found, timeout),
                "expected": found.finding.expected,
                "actual": found.finding.actual,
                "replay": f"acpitk diff --oracle {old} {new} {shlex.quote(str(path))}",
            }
        )
    if as_json:
        numbers = {"seed": seed, "iterations": result.done, "seconds": round(result.seconds, 3)}
        emit_json({"schema": 1, "from": old, "to": new, **numbers, "differences": rows})
        return
    rate = f"{result.done / max(result.seconds, 1e-3):.0f} cases/s"
    emit(f"{result.done} cases in {result.seconds:.1f} s, {rate}, seed {seed}: {len(rows)} differences\n")
    shown = ((row["count"], f"{row['id']} {row['cause']}", row["confirmed"], row["case"]) for row in rows)
    emit(
        table(f"{old} against {new}, the kernel's own code", ("cases>", "cause", "boots", "saved as"), shown)
    )
    if rows:
        emit(Text(printable(f"See one: {rows[0]['replay']}")))


def _confirmed(old: str, new: str, oracle: Oracle, found: Found, timeout: float) -> str:
    """Whether real boots differ in the same field, too; of one they do not show, in what it comes with."""
    names = [name for name in (old, new) if name != MODEL]
    if not set(names) <= SUITES.keys() or undeliverable(found.case):
        return "not bootable"
    try:
        outcomes = [boot(found.case, find_image(name), timeout=timeout).outcome() for name in names]
    except ToolError as error:
        return str(error)
    if old == MODEL:
        outcomes.insert(0, model_boot(found.case, POLICIES[find_oracle(new).row]))
    comparison, rule = compare(*outcomes), found.finding.id
    shown = {finding.id for finding in differences(comparison)}
    if rule in shown:
        return "confirmed"
    if comparison.fields[RULE_FIELDS[rule]] is not Verdict.NOT_OBSERVED:
        return "not confirmed"
    along = sorted(shown & {finding.id for finding in oracle.check(found.case)})
    return f"confirmed in {', '.join(along)}" if along else "not seen by boots"


def _save(out: Path, found: Found, old: str, new: str, seed: int) -> Path:
    signature = found.finding.signature
    how = " ".join(found.mutators) or "a seed as it is"
    stored = StoredCase(
        case=found.case,
        provenance=f"acpitk diff --oracle {old} {new} --seed {seed}, iteration {found.iteration}: {how}",
        findings=(signature,),
        finding=replace(found.finding, kernels=tuple(n for n in (old, new) if n != MODEL)).to_json(),
    )
    return save(out, stored, slug=f"oracle-{old}-{new}-{sha256(signature.encode()).hexdigest()[:8]}")
