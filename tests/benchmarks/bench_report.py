"""How a report opens as it grows, in headless Chromium.

Run by hand: `python -m pytest -s -o python_functions=bench_opening tests/benchmarks/bench_report.py`.
The ratios are
of one run; the seconds are this machine's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk.checks.invariants import check
from acpitk.corpus import load_corpus
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.report.html import Entry, render_report
from tests.report.conftest import browser, opened

__all__ = ["browser", "opened"]

CORPUS = Path(__file__).resolve().parents[2] / "corpus"


@pytest.mark.chromium
def bench_opening(opened: Callable[[str], float]) -> None:
    """Seconds to the end of the load event for 1, 10 and 50 times the corpus's findings."""
    entries = [
        Entry(case=stored.case, finding=finding.to_json(), file=path.name, kernel="v6.1")
        for path, stored in load_corpus(CORPUS).cases
        for finding in check(stored.case, predict(stored.case, POLICIES["v6.1"]))
    ]
    base = None
    for times in (1, 10, 50):
        html = render_report(entries * times, title="benchmark")
        seconds = min(opened(html) for _ in range(3))
        base = base or seconds
        size = f"{len(entries) * times:5} findings  {len(html) / 1e6:5.2f} MB"
        print(f"{size}  {seconds:5.2f} s  x{seconds / base:.1f}")
