"""The HTML report in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from acpitk.checks.invariants import check
from acpitk.corpus import load_case
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import V6_1
from acpitk.machine import Case
from acpitk.report.html import Entry, render_report
from acpitk.tables.srat import build_srat, decode_srat, encode_srat

if TYPE_CHECKING:
    from conftest import Browser

pytestmark = pytest.mark.chromium
CORPUS = Path(__file__).resolve().parent.parent.parent / "corpus"
_CARD = "document.querySelector('details.finding:not([hidden])')"


def _entries(repeat: int = 1, cases: str = "*") -> list[Entry]:
    found = []
    for path in sorted(CORPUS.glob(f"{cases}.json")):
        case = load_case(path)
        found += [
            Entry(
                case=case,
                finding=finding.to_json(),
                file=path.name,
                kernel="v6.1",
                commands=(("Replay", f"acpitk replay {path.name}"),),
                console="ACPI: SRAT: Node 0 PXM 0 [mem 0x0-0x1]",
            )
            for finding in check(case, predict(case, V6_1))
        ]
    return found * repeat


def _shown(browser: Browser) -> int:
    count: int = browser.run("document.querySelectorAll('details.finding:not([hidden])').length")
    return count


def _type(browser: Browser, text: str) -> None:
    browser.run(f"document.getElementById('text').value = {text!r}")
    browser.run("document.getElementById('text').dispatchEvent(new Event('input'))")


def test_a_large_report_draws_nothing_before_it_is_asked(
    browser: Browser, opened: Callable[[str], float]
) -> None:
    html = render_report(_entries(4), title="x")
    assert len(html) < 7_000_000
    opened(html)
    assert browser.run("document.querySelectorAll('details.finding .map svg').length") <= 1
    assert browser.problems == []
    assert _shown(browser) > 200


def test_every_finding_opens_without_an_error(browser: Browser, opened: Callable[[str], float]) -> None:
    opened(render_report(_entries(), title="x"))
    browser.run("document.getElementById('expand').click()")
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert browser.run("document.querySelectorAll('details.finding .map svg rect.b').length") > 500
    total = browser.run("document.querySelectorAll('details.finding').length")
    assert browser.run("document.querySelectorAll('details.finding .story').length") == total
    browser.run("document.querySelectorAll('details.more').forEach((d) => { d.open = true; })")
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert "53 52 41 54" in browser.run("document.querySelector('.pictures pre').textContent")
    assert browser.problems == []


def test_the_filter_narrows(browser: Browser, opened: Callable[[str], float]) -> None:
    opened(render_report(_entries(), title="x"))
    total = _shown(browser)
    _type(browser, "kernel-node initrd")
    assert 0 < _shown(browser) < total
    assert browser.run("document.getElementById('shown').textContent").endswith(f"of {total} findings")
    _type(browser, "no such words anywhere")
    assert _shown(browser) == 0
    assert browser.run("document.getElementById('none').hidden") is False
    _type(browser, "")
    notes = browser.run("document.querySelectorAll('details.finding[data-level=note]').length")
    browser.run("document.querySelector('.levels .note').click()")
    assert _shown(browser) == total - notes
    browser.run("document.querySelector('.levels .note').click()")
    browser.run(
        "{ const r = document.getElementById('rule'); r.value = r.options[1].value;"
        " r.dispatchEvent(new Event('change')); }"
    )
    assert 0 < _shown(browser) < total


def test_the_map_zooms_pans_and_walks(browser: Browser, opened: Callable[[str], float]) -> None:
    opened(render_report(_entries(cases="initrd-on-hot-node-*"), title="x"))
    browser.run(f"{_CARD}.open = true")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    widest = "Math.max(...[...document.querySelectorAll('.map rect.b')].map((r) => +r.getAttribute('width')))"
    ticks = "[...document.querySelectorAll('.map text.tick')].map((t) => t.textContent).join()"
    before, labels = browser.run(widest), browser.run(ticks)
    browser.run("document.querySelector('.map button').click()")
    assert browser.run(ticks) != labels
    browser.run("document.querySelector('.map .view').focus()")
    browser.press("0", "0")
    assert browser.run(ticks) == labels
    assert browser.run(widest) == before
    seen = set()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowDown"):
        browser.press(key)
        seen.add(browser.run("document.querySelector('.map .readout').textContent"))
    assert len(seen) == 4
    assert any(text.startswith("SRAT: 0x") for text in seen)
    browser.press("+", "+")
    assert browser.run(ticks) != labels
    assert browser.problems == []


def test_blocks_can_be_asked_by_keyboard(browser: Browser, opened: Callable[[str], float]) -> None:
    opened(render_report(_entries(), title="x"))
    browser.run(f"{_CARD}.open = true")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    browser.run("document.querySelector('.blocks .view').focus()")
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('.blocks .readout').textContent").startswith("block 1 of ")


def test_the_keyboard_reaches_everything(browser: Browser, opened: Callable[[str], float]) -> None:
    opened(render_report(_entries()[:3], title="x"))
    reached = []
    browser.press("Tab")
    while browser.run("document.activeElement !== document.body"):
        reached.append(browser.run("document.activeElement.outerHTML.slice(0, 60)"))
        outline = browser.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
        assert len(reached) < 50
        browser.press("Tab")
    joined = " ".join(reached)
    for part in ('class="skip"', 'id="text"', 'data-level="error"', 'id="rule"', 'id="expand"', "<summary>"):
        assert part in joined


def test_hostile_words_do_not_run(browser: Browser, opened: Callable[[str], float]) -> None:
    bad = "</script><img src=x onerror='window.ran=1'><script>window.ran=1</script>"
    entry = replace(
        _entries()[0],
        finding={"id": bad, "signature": bad, "severity": bad, "where": bad},
        file=bad,
        provenance=bad,
        console=f"SRAT {bad}",
        commands=((bad, bad),),
    )
    case = Case(machine=entry.case.machine, tables=(bad.encode(), *entry.case.tables), cmdline=bad)
    opened(render_report([replace(entry, case=case)], title=bad, problems=[bad]))
    browser.run("document.getElementById('expand').click()")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    browser.run("document.querySelectorAll('details.more').forEach((d) => { d.open = true; })")
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("window.ran") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.problems == []


def test_a_table_of_thousands_of_entries_stays_usable(
    browser: Browser, opened: Callable[[str], float]
) -> None:
    entry = next(e for e in _entries() if e.file.startswith("half-hot-node"))
    srat = decode_srat(entry.case.tables[0])
    first = srat.memory_affinities()[0]
    many = tuple(replace(first, base=i << 20, length=1 << 20) for i in range(3000))
    case = Case(machine=entry.case.machine, tables=(encode_srat(build_srat(many)),))
    html = render_report([replace(entry, case=case)], title="x")
    assert len(html) < 1_000_000
    opened(html)
    browser.run("document.getElementById('expand').click()")
    browser.run("new Promise((done) => setTimeout(done, 300))")
    browser.run("document.querySelector('details.more').open = true")
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run("document.querySelectorAll('.pictures tbody tr').length") == 500
    assert browser.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_and_paper(browser: Browser, opened: Callable[[str], float], scheme: str) -> None:
    opened(render_report(_entries(), title="x"))
    browser.colour_scheme(scheme)
    page = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(255, 255, 255)") is (scheme == "light")
    browser.colour_scheme(scheme, media="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('.bar')).display") == "none"
    assert browser.run("document.querySelector('.finding .facts').getBoundingClientRect().height") > 50
    browser.colour_scheme("light")
