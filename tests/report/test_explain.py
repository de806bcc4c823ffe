"""The story of a boot: in order, complete, and every reason with its place in the kernel."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from acpitk.checks.differential import compare
from acpitk.checks.invariants import check
from acpitk.corpus import load_case
from acpitk.fuzz.strategies import cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES, SEED_2013, V5_10, V6_1, V6_12, V7_3, KernelPolicy
from acpitk.machine import Case, Machine
from acpitk.report.explain import (
    UNOBSERVED,
    Chapter,
    Story,
    aligned,
    explain,
    explain_observed,
    render_stories,
    render_story,
)

CORPUS = Path(__file__).resolve().parent.parent.parent / "corpus"
CASES = sorted(CORPUS.glob("*.json"))
_SOURCE = re.compile(r"\w+\(\), [\w/]+\.c, Linux \d+\.\d+")


def _story(case: Case, policy: KernelPolicy = V6_1) -> Story:
    prediction = predict(case, policy)
    return explain(case, prediction, policy, check(case, prediction))


def _text(story: Story, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=10_000, no_color=True)
    with console.capture() as captured:
        console.print(render_story(story, width=width))
    return captured.get()


def _case(name: str) -> Case:
    return load_case(next(CORPUS.glob(f"{name}-*.json")))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_case_is_told_with_a_source_for_every_step(path: Path, policy: KernelPolicy) -> None:
    case = load_case(path)
    story = _story(case, policy)
    order = list(Chapter)
    positions = [order.index(step.chapter) for step in story.steps]
    assert positions == sorted(positions)
    for step in story.steps:
        assert step.kernel
        assert _SOURCE.match(step.source), step
    told = sorted(finding.signature for step in story.steps for finding in step.findings)
    assert told == sorted(finding.signature for finding in check(case, predict(case, policy)))
    assert json.loads(json.dumps(story.to_json())) == story.to_json()


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from((V5_10, V6_1, V6_12, V7_3, SEED_2013)))
def test_any_case_is_told(case: Case, policy: KernelPolicy) -> None:
    story = _story(case, policy)
    assert {Chapter.MEMORY_MAP, Chapter.RESERVED, Chapter.NUMA} <= {step.chapter for step in story.steps} or (
        predict(case, policy).outcome.panic is not None
    )
    text = _text(story)
    for step in story.steps[:4]:
        assert step.because in text


def test_files_move_with_the_version() -> None:
    case = _case("four-socket")
    before, after = (
        {step.chapter: step.source for step in _story(case, policy).steps} for policy in (V6_1, V7_3)
    )
    assert before[Chapter.MOVABLE] == "find_zone_movable_pfns_for_nodes(), mm/page_alloc.c, Linux 6.1"
    assert after[Chapter.MOVABLE] == "find_zone_movable_pfns_for_nodes(), mm/mm_init.c, Linux 7.3"


def test_a_lost_mark_names_who_lives_there() -> None:
    case = _case("everything-hot")
    marks = [step for step in _story(case).steps if step.chapter is Chapter.MARKS]
    assert any("kernel image" in step.because and step.kernel.startswith("no mark") for step in marks)


def test_a_rejected_srat_says_why() -> None:
    case = _case("everything-hot")
    table = bytearray(case.tables[0])
    table[48:50] = 99, 0  # a type nobody knows, of length zero
    story = _story(Case(machine=case.machine, tables=(bytes(table),), cmdline=case.cmdline))
    numa = next(step for step in story.steps if step.chapter is Chapter.NUMA)
    assert numa.kernel == "SRAT not used: one node 0 with all memory"
    assert "length zero" in numa.because


def test_a_panic_is_placed() -> None:
    case = Case(machine=Machine(e820=()))
    last = _story(case).steps[-1]
    assert last.kernel == "panic: alloc_low_pages: can not alloc memory"
    assert last.source == "alloc_low_pages(), arch/x86/mm/init.c, Linux 6.1"


def test_the_same_kernel_twice_tells_the_same() -> None:
    story = _story(_case("half-hot-node"))
    assert all(first == second for _, first, second in aligned(story.steps, story.steps))


def test_rows_that_differ_are_marked() -> None:
    case = _case("movablecore")
    first, second = predict(case, V6_1), predict(case, V7_3)
    stories = explain(case, first, V6_1), explain(case, second, V7_3)
    console = Console(file=io.StringIO(), width=200, no_color=True)
    with console.capture() as captured:
        console.print(render_stories(stories, compare(first.outcome, second.outcome), width=120))
    lines = captured.get().splitlines()
    differing = [s for s, one, two in aligned(*(s.steps for s in stories)) if one != two]
    assert differing
    assert sum(line.startswith("!") for line in lines) == len(differing)


def test_what_a_boot_did_not_show_is_no_difference() -> None:
    case = _case("half-hot-node")
    prediction = predict(case, V6_1)
    outcome = predict(case, V6_1).outcome
    observed = explain_observed(case, prediction, outcome, V6_1)
    rows = {
        subject: (one, two)
        for subject, one, two in aligned(explain(case, prediction, V6_1).steps, observed.steps)
    }
    assert rows["memory in use"][1] == UNOBSERVED
    assert rows["NUMA configuration"][0] == rows["NUMA configuration"][1]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_a_command_line_cannot_act_on_the_terminal(cmdline: str) -> None:
    case = _case("half-hot-node")
    hostile = Case(machine=case.machine, tables=case.tables, cmdline=f"movable_node movable\x1b[2J{cmdline}")
    assert all(c.isprintable() or c == "\n" for c in _text(_story(hostile)))
