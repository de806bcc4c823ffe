"""`acpitk corpus`: what other fuzzers keep becomes cases, and a few cases do all that many did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acpitk import corpus
from acpitk.checks.behaviour import behaviour
from acpitk.cli import run
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35
from acpitk.ranges import GIB
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology

SRAT = encode_srat(parse_topology(["0:mem=0-1G", "1:mem=1G-2G,hotplug"]).tables()[0])
SLIT = encode_slit(build_slit([[10, 20], [20, 10]]))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _shown(directory: Path, *rows: str) -> tuple[set[str], set[str]]:
    """Decisions in these rows of the model, and findings stored."""
    cases = [stored for _, stored in corpus.load_corpus(directory).cases]
    decisions = {
        f"{row} {name}"
        for stored in cases
        for row in rows
        for name in behaviour(predict(stored.case, POLICIES[row]))
    }
    return decisions, {name for stored in cases for name in stored.findings}


def test_directories_of_other_fuzzers_become_cases(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """AFL's queue and libFuzzer's files named by their hash; both keep whole tables, most of them broken."""
    queue = here / "afl" / "default" / "queue"
    queue.mkdir(parents=True)
    (queue / "id:000000,time:0,orig:srat.bin").write_bytes(SRAT)
    (queue / "id:000001,src:000000,op:flip1").write_bytes(SRAT[:60])
    (queue / ".state").mkdir()
    (queue / ".state" / "id:000002").write_bytes(SRAT[:80])
    (here / "afl" / "fuzzer_stats").write_text("execs_done : 5\n")
    (here / "libfuzzer").mkdir()
    (here / "libfuzzer" / "da39a3ee5e6b4b0d3255bfef95601890afd80709").write_bytes(b"")
    (here / "libfuzzer" / "0ade7c2cf97f75d009975f4d720d1fa6c19f4897").write_bytes(SRAT + SLIT)
    (here / "libfuzzer" / "again").write_bytes(SRAT)
    assert run(("corpus", "import", "afl", "libfuzzer", "-o", "seeds")) == 0
    out, err = capsys.readouterr()
    assert out == "3 new cases in seeds, 3 in all, 2 files passed over\n"
    assert err.count("\n") == 2
    cases = [stored.case for _, stored in corpus.load_corpus(here / "seeds").cases]
    assert {case.tables for case in cases} == {(SRAT,), (SRAT[:60],), (SRAT, SLIT)}
    assert {case.machine for case in cases} == {Q35(GIB), Q35(2 * GIB)}
    assert {case.cmdline for case in cases} == {"movable_node"}
    assert run(("corpus", "import", "libfuzzer", "afl", "-o", "seeds")) == 0
    assert capsys.readouterr().out.startswith("0 new cases in seeds, 3 in all")
    assert run(("fuzz", "--from", "seeds", "--iterations", "3")) == 1


def test_tables_take_the_guest_and_command_line_that_are_given(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "srat.bin").write_bytes(SRAT)
    assert run(("corpus", "import", "srat.bin", "--mem", "8G", "--cmdline", "", "-o", "seeds")) == 0
    ((_, stored),) = corpus.load_corpus(here / "seeds").cases
    assert (stored.case.machine, stored.case.cmdline) == (Q35(8 * GIB), "")
    assert stored.provenance == "imported from srat.bin"
    # A case is taken as it is.
    assert run(("corpus", "import", "seeds", "--mem", "1G", "-o", "more")) == 0
    ((_, again),) = corpus.load_corpus(here / "more").cases
    assert again == stored


def test_a_campaign_gives_its_news_and_findings(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fuzz = ("fuzz", "--iterations", "200", "--seed", "1", "--out", "found", "--kernel", "v6.1,v7.3", "--json")
    assert run(fuzz) == 1
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert run(("corpus", "import", "found", "-o", "seeds")) == 0
    kernels = ("--kernel", "v6.1,v7.3")
    assert run(("corpus", "list", "seeds", *kernels, "--json")) == 0
    capsys.readouterr()
    assert run(("corpus", "list", "seeds", *kernels)) == 0
    listed = capsys.readouterr().out
    assert run(("corpus", "minimise", "seeds", "-o", "few", *kernels)) == 0
    many, few = (len(corpus.load_corpus(here / name).cases) for name in ("seeds", "few"))
    assert listed.startswith(f"{many} cases, ")
    assert len(document["findings"]) < few < many
    assert _shown(here / "few", "v6.1", "v7.3") == _shown(here / "seeds", "v6.1", "v7.3")
    assert _shown(here / "few")[1] == {finding["signature"] for finding in document["findings"]}


def test_the_list_tells_what_only_one_case_does(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "srat.bin").write_bytes(SRAT)
    (here / "short.bin").write_bytes(SRAT[:60])
    assert run(("corpus", "import", "srat.bin", "short.bin", "-o", "seeds")) == 0
    capsys.readouterr()
    assert run(("corpus", "list", "seeds", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    one, other = (set(case["decisions"]) for case in document["cases"])
    assert [set(case["alone"]) for case in document["cases"]] == [one - other, other - one]
    assert document["decisions"] == len(one | other)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("list", "absent"), "absent"),
        (("list", "empty"), "no case in it"),
        (("minimise", "empty", "-o", "few"), "no case in it"),
        (("minimise", "full", "-o", "full"), "has cases already"),
        (("minimise", "full", "-o", "few", "--kernel", "v0.1"), "v0.1"),
        (("import", "empty", "-o", "seeds"), "empty"),
        (("import", "noise", "-o", "seeds"), "noise"),
        (("import", "absent", "-o", "seeds"), "absent"),
        (("import", "full", "-o", "noise"), "noise"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    (here / "empty").mkdir()
    (here / "noise").write_bytes(b"noise")
    (here / "srat.bin").write_bytes(SRAT)
    assert run(("corpus", "import", "srat.bin", "-o", "full")) == 0
    capsys.readouterr()
    assert run(("corpus", *arguments)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert named in err
