"""The HTML report as text: complete, self-contained, and inert whatever it quotes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acpitk.checks.catalogue import RULES
from acpitk.checks.invariants import check
from acpitk.corpus import load_case
from acpitk.fuzz.strategies import cases
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import V6_1
from acpitk.machine import Case
from acpitk.report.html import Entry, console_excerpt, embedded, render_report
from acpitk.report.summary import Summary

CORPUS = Path(__file__).resolve().parent.parent.parent / "corpus"
_HOSTILE = st.text(max_size=60) | st.sampled_from(
    (
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "]]><img src=x onerror=alert(1)>",
        '" autofocus onfocus="alert(1)',
        "' onclick='alert(1)",
        "{{ 7 * 7 }}{% raw %}",
        "javascript:alert(1)",
        "\udc80\u2028\u2029\x00\x1b[2J",
        "&lt;b&gt;",
    )
)
_VOID = {"meta", "link", "input", "br", "line", "polyline", "polygon"}


class _Page(HTMLParser):
    """Elements, their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._script = False
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
            self._script = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "script":
            self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        else:
            self.words += data


def _entry(text: str = "x", case: Case | None = None) -> Entry:
    case = case or load_case(next(CORPUS.glob("half-hot-node-*.json")))
    finding = {"id": text, "signature": text, "severity": "warning", "where": text, "expected": text}
    finding |= {"actual": text, "advice": text, "mechanism": text, "oracle": text}
    return Entry(
        case=Case(machine=case.machine, tables=case.tables, cmdline=text),
        finding=finding | {"kernels": [text]},
        file=text,
        kernel="v6.1",
        provenance=text,
        count=1,
        commands=(("Replay", text),),
        console=f"SRAT: {text}",
    )


def _real(case: Case, path: str = "case.json") -> list[Entry]:
    found = check(case, predict(case, V6_1))
    return [Entry(case=case, finding=f.to_json(), file=path, kernel="v6.1") for f in found]


def _data(page: _Page) -> Any:
    return json.loads(page.scripts[0])


@settings(max_examples=40, deadline=None)
@given(_HOSTILE)
def test_nothing_quoted_becomes_markup(text: str) -> None:
    plain = _Page(render_report([_entry()], title="x", problems=["x"]))
    page = _Page(render_report([_entry(text or " ")], title=text, problems=[text]))
    assert not page.open
    dropped = text in RULES or not text.strip()  # a rule's own ID brings the rule's words
    if not dropped:
        assert page.elements == plain.elements
        assert [name for name, _ in page.attributes] == [name for name, _ in plain.attributes]
    assert len(page.scripts) == 2
    assert page.scripts[1] == plain.scripts[1]
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert _data(page)["findings"][0]["console"].startswith("SRAT: ")


@given(st.binary(max_size=6), st.binary(max_size=8))
@settings(max_examples=30, deadline=None)
def test_table_identities_are_inert(oem: bytes, oem_table: bytes) -> None:
    case = load_case(next(CORPUS.glob("half-hot-node-*.json")))
    table = bytearray(case.tables[0])
    table[10 : 10 + len(oem)] = oem
    table[16 : 16 + len(oem_table)] = oem_table
    page = _Page(render_report([_entry("x", Case(machine=case.machine, tables=(bytes(table),)))], title="x"))
    assert len(page.scripts) == 2
    assert base64.b64decode(_data(page)["findings"][0]["tables"][0]["bytes"]) == bytes(table)


def test_a_table_that_ends_the_script_does_not() -> None:
    table = b"</sc" + b"<!--<script>alert(1)</script>" * 3
    case = Case(machine=load_case(next(CORPUS.glob("half-hot-node-*.json"))).machine, tables=(table,))
    page = _Page(render_report([_entry("x", case)], title="x"))
    assert len(page.scripts) == 2
    assert _data(page)["findings"][0]["tables"][0]["name"] == "</sc"


@given(
    st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_embedded_json_survives_and_holds_no_markup(document: object) -> None:
    text = embedded(document)
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()
    assert json.loads(text) == document


@settings(max_examples=25, deadline=None)
@given(cases())
def test_any_case_can_be_reported(case: Case) -> None:
    entries = _real(case)
    page = _Page(render_report(entries, title="x"))
    assert page.elements.count("details") == len(entries)
    for picture in _data(page)["findings"]:
        assert [name for name, _ in picture["lanes"]][:2] == ["e820", "SRAT"]
        assert sum(row[2] for row in picture["axis"]) == pytest.approx(1, abs=1e-6)


def test_worst_first_and_counted() -> None:
    entries = [entry for path in sorted(CORPUS.glob("*.json")) for entry in _real(load_case(path), path.name)]
    text = render_report(entries, title="x")
    order = re.findall(r'<details class="finding" id="f\d+" data-level="(\w+)"', text)
    assert len(order) == len(entries)
    assert order == sorted(order, key=["error", "warning", "note"].index)
    assert len(text) < 5_000_000


def test_the_campaign_is_shown() -> None:
    summary = Summary(
        seed=7,
        iterations=12345,
        seconds=10.0,
        timeline=((1.0, 1000, 5, 40), (5.0, 6000, 9, 90), (10.0, 12345, 9, 95)),
        runs={"model": 12345, "boot v6.1": 20},
        mutators={"swap <b>": 3},
    )
    page = _Page(render_report([_entry()], title="x", summary=summary))
    for words in ("12,345", "seed 7", "1,234", "swap <b>", "Boots"):
        assert words in page.words.replace("1,235", "1,234")
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "Cases over time: 12,345 after 10 seconds" in labels
    assert page.elements.count("polyline") == 3


def test_a_difference_between_rows_shows_both() -> None:
    case = load_case(next(CORPUS.glob("movablecore-*.json")))
    finding = {"id": "DIFF-ZONES", "severity": "warning", "kernels": ["v6.1", "v7.3"]}
    page = _Page(render_report([Entry(case=case, finding=finding, file="f", kernel="v6.1")], title="x"))
    picture = _data(page)["findings"][0]
    names = [name for name, _ in picture["lanes"]]
    assert picture["kernel"] == "Linux v6.1 and v7.3, model"
    assert names[:6] == ["e820", "SRAT", "reserved", "nodes", "zones", "blocks"]
    assert "reserved v7.3" in names[6:]
    assert "nodes v7.3" not in names


def test_odd_findings_are_shown_as_they_are() -> None:
    entry = Entry(
        case=Case(machine=_entry().case.machine),
        finding={"severity": ["error"], "kernels": 7, "offset": "x", "id": None},
        file="f",
        kernel="v6.1",
    )
    page = _Page(render_report([entry], title="x"))
    assert page.elements.count("details") == 1


def test_no_findings_is_a_report_too() -> None:
    assert "No findings to show." in _Page(render_report([], title="x")).words


def test_the_page_needs_nothing_from_outside() -> None:
    text = render_report([_entry()], title="x")
    page = _Page(text)
    assert not [v for name, v in page.attributes if name in ("src", "srcset", "action", "data")]
    assert {v for name, v in page.attributes if name == "href"} == {"data:,", "#findings"}
    addresses = set(re.findall(r"\w+://[\w./]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text


def test_the_policy_allows_the_own_style_and_script_only() -> None:
    text = render_report([_entry()], title="x")
    policy = next(v for name, v in _Page(text).attributes if name == "content" and v and "default-src" in v)
    for kind, element in (("style", "style"), ("script", "script")):
        body = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_a_console_excerpt_keeps_what_matters() -> None:
    log = "[0] Linux 6.1\n[1] ACPI: SRAT: Node 0 PXM 0 [mem 0x0-0x1]\n[2] usb 1-1\n[3] Kernel panic \x1b[0m"
    assert console_excerpt(log) == ("[1] ACPI: SRAT: Node 0 PXM 0 [mem 0x0-0x1]\n[3] Kernel panic \\x1b[0m")
    assert len(console_excerpt("SRAT\n" * 100_000)) < 30_000


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_in_both_themes(theme: int) -> None:
    css = files("acpitk.report").joinpath("templates", "report.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    marks = (
        "ram",
        "firmware",
        "plain",
        "hot",
        "ignored",
        "owner",
        "movable",
        "removable",
        "kept",
        "uncertain",
    )
    pairs = [("mark-text", mark) for mark in (*marks, *(f"far-{i}" for i in range(5)))]
    pairs += [
        (text, on) for text in ("text", "muted", "accent") for on in ("page", "surface", "raised", "code")
    ]
    pairs += [(f"{level}-text", f"{level}-fill") for level in ("error", "warning", "note")]
    for text, on in pairs:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[on])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, on)
