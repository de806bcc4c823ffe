"""A prediction against the kernel's own code, for many cases at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from acpitk import klog
from acpitk.kernel.boot import zones_of
from acpitk.kernel.memblock import ARRAYS_OVERLAP
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case
from acpitk.oracle.client import Report, Worker
from acpitk.oracle.outcome import LATER, outcome, same
from acpitk.oracle.store import OracleBuild
from acpitk.outcome import Outcome

_ENDLESS = "localities to go through"
"""What the model says where the kernel walks a SLIT for minutes; the oracle is not asked for that."""

_MANY = 1024


@dataclass(slots=True)
class Judge:
    """One oracle build and its worker process, in this process alone.

    `ahead` runs cases in one batch; `disagrees` then takes their reports from there.
    """

    build: OracleBuild
    _worker: Worker | None = None
    _reports: dict[int, tuple[Case, Report]] = field(default_factory=dict)

    def __getstate__(self) -> OracleBuild:
        return self.build

    def __setstate__(self, build: OracleBuild) -> None:
        self.build, self._worker, self._reports = build, None, {}

    @property
    def worker(self) -> Worker:
        """Its process, started when first asked for."""
        if self._worker is None:
            self._worker = self.build.worker()
        return self._worker

    def ahead(self, cases: Sequence[Case]) -> None:
        """Ask about all cases at once, those aside that may take long."""
        asked = [case for case in cases if not large_slit(case)]
        reports = self.worker.ask_many(asked)
        self._reports = {id(case): (case, report) for case, report in zip(asked, reports, strict=True)}

    def sift(self, cases: Sequence[Case]) -> list[int]:
        """Numbers of the cases in which the kernel may not do what its row of the model says, ascending.

        Those that may take long are not asked about, and are not among them.
        """
        policy = POLICIES[self.build.row]
        asked = [number for number, case in enumerate(cases) if not large_slit(case)]
        reports = self.worker.ask_many([cases[number] for number in asked])
        return [
            number
            for number, report in zip(asked, reports, strict=True)
            if not same(prediction := zones_of(cases[number], policy), report) and not _open_ended(prediction)
        ]

    def report(self, case: Case) -> Report:
        """What the worker says of a case, perhaps already asked."""
        held = self._reports.pop(id(case), None)
        return held[1] if held is not None and held[0] is case else self.worker.ask(case)

    def disagrees(self, case: Case, prediction: Outcome) -> Outcome | None:
        """The kernel's outcome where it is not to the last row the predicted one.

        None also where the model does not say what the kernel comes to.

        Raises:
            ToolError: the run reached what the oracle does not have.
        """
        if _open_ended(prediction):
            return None
        report = self.report(case)
        if same(prediction, report):
            return None
        made = self.outcome_of(report, case)
        later = made.panic is None and (prediction.panic or "").startswith(LATER)
        return replace(made, panic=prediction.panic) if later else made

    def outcome_of(self, report: Report, case: Case) -> Outcome:
        """A report as an outcome, with what NUMA printed where there is a log."""
        messages: tuple[str, ...] = ()
        if report.log:
            messages = klog.parse(report.log + "\n", kernel=self.build.name, ended="marker").messages
        made = outcome(report, kernel=self.build.name, cmdline=case.cmdline)
        return replace(made, messages=messages)

    def logged(self, case: Case) -> tuple[Outcome, str]:
        """The kernel's outcome of one case and its log."""
        report = self.worker.ask(case, log=True)
        return self.outcome_of(report, case), report.log


def _open_ended(prediction: Outcome) -> bool:
    """Whether the kernel takes minutes, or overwrites its own arrays: the model does not say to what end."""
    return prediction.panic == ARRAYS_OVERLAP or any(_ENDLESS in text for text in prediction.messages)


def large_slit(case: Case) -> bool:
    """Whether the SLIT says it has many localities: the kernel walks their square."""
    slit = case.table(b"SLIT")
    return slit is not None and int.from_bytes(slit[36:44], "little") > _MANY
