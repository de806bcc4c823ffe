"""What each command says and writes, on good input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acpitk.cli import run
from acpitk.cli.output import write_file
from acpitk.machine import Q35, Case
from acpitk.tables.header import checksum_valid
from acpitk.tables.srat import decode_srat

NODES = ("--node", "0:mem=0-512M", "--node", "1:mem=512M-1G,hotplug", "--distance", "0,1=21")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A directory with the tables of two nodes, the second hot-pluggable."""
    monkeypatch.chdir(tmp_path)
    assert run(("gen", *NODES)) == 0
    capsys.readouterr()
    return tmp_path


def _json(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> Any:
    assert run((*arguments, "--json")) == status
    return json.loads(capsys.readouterr().out)


def test_gen_prints_the_arguments_and_writes_the_tables(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("gen", *NODES, "-o", "a,b")) == 0
    out, err = capsys.readouterr()
    assert out == "-acpitable file=a,,b/srat.bin -acpitable file=a,,b/slit.bin\n"
    assert err == ""
    assert sorted(path.name for path in (here / "a,b").iterdir()) == [
        *("slit.asl", "slit.bin", "srat.asl", "srat.bin")
    ]
    assert checksum_valid((here / "a,b" / "srat.bin").read_bytes())


def test_gen_reads_the_same_from_yaml(here: Path) -> None:
    (here / "nodes.yaml").write_text(
        "nodes:\n  0: {mem: 0-512M}\n  1:\n    mem: ['512M-1G,hotplug']\ndistances:\n  0,1: 21\n"
    )
    assert run(("gen", "--topology", "nodes.yaml", "-o", "yaml")) == 0
    for name in ("srat.bin", "slit.bin"):
        assert (here / "yaml" / name).read_bytes() == (here / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nodes: {0: {mem: 0-1G}, 0: {mem: 1G-2G}}", "line 1, column 25: 0 appears twice"),
        ("nodes: {0: {mem: 1G}}", "nodes.0.mem[0]"),
        ("nodes: [", "line 1"),
        ("nodes: !!python/object/apply:os.system [id]", "line 1"),
    ],
)
def test_topology_errors_say_where(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    (here / "bad.yaml").write_text(text)
    assert run(("gen", "--topology", "bad.yaml")) == 2
    assert named in capsys.readouterr().err


def test_gen_from_writes_the_same_bytes_back(here: Path) -> None:
    for name in ("srat.bin", "slit.bin"):
        assert run(("gen", "--from", name, "-o", "copy")) == 0
        assert (here / "copy" / name).read_bytes() == (here / name).read_bytes()


def test_gen_from_clears_then_sets_hotplug(here: Path) -> None:
    assert (
        run(("gen", "--from", "srat.bin", "--hotplug", "256M-512M", "--no-hotplug", "all", "-o", "new")) == 0
    )
    data = (here / "new" / "srat.bin").read_bytes()
    assert checksum_valid(data)
    assert [(e.base >> 20, int(e.flags)) for e in decode_srat(data).memory_affinities()] == [
        (0, 1),
        (256, 3),
        (512, 1),
    ]


def test_gen_random_is_repeatable_and_its_cases_can_be_predicted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for directory in ("one", "two"):
        assert run(("gen", "--seed", "7", "--count", "3", "--mutate", "wrap-range", "-o", directory)) == 0
    names = sorted(path.name for path in (here / "one").iterdir())
    assert {"case-1.json", "case-3.json"} <= set(names)
    for name in names:
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()
    capsys.readouterr()
    assert run(("predict", "one/case-2.json", "--json")) in (0, 1)
    assert json.loads(capsys.readouterr().out)["kernel"] == "v6.1"


def test_decode_names_fields_and_keeps_the_rest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "odd.bin").write_bytes((here / "srat.bin").read_bytes() + b"\x63\x04\xab\xcd" + b"\x01")
    document = _json(capsys, 0, "decode", "odd.bin", "slit.bin")
    srat, slit = document["tables"]
    assert srat["header"]["signature"] == "SRAT"
    assert srat["checksum_valid"] is False
    memory = srat["entries"][2]
    assert (memory["offset"], memory["base"], memory["flag_names"]) == (
        0x68,
        512 << 20,
        ["ENABLED", "HOT_PLUGGABLE"],
    )
    assert srat["entries"][3] == {"offset": 144, "type": 0x63, "declared_length": 4, "raw": "6304abcd"}
    assert srat["trailing"] == "01"
    assert slit["entries"] == [[10, 21], [21, 10]]
    assert run(("decode", "odd.bin")) == 0
    text = capsys.readouterr().out
    assert "63 04 ab cd" in text
    assert "ENABLED HOT_PLUGGABLE" in text


def test_decode_shows_other_tables_by_their_header(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = b"XYZT" + (here / "srat.bin").read_bytes()[4:40]
    (here / "other.bin").write_bytes(table)
    (decoded,) = _json(capsys, 0, "decode", "other.bin")["tables"]
    assert decoded["body"] == table[36:].hex()


def test_lint_status_follows_severity(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, 0, "lint", "srat.bin", "slit.bin", "--mem", "1G") == []
    broken = bytearray((here / "srat.bin").read_bytes())
    broken[9] ^= 1
    (here / "broken.bin").write_bytes(broken)
    (finding,) = _json(capsys, 1, "lint", "broken.bin")
    assert finding["id"] == "SRAT-CHECKSUM"
    assert {"signature", "severity", "where", "expected", "actual"} <= finding.keys()


def test_predict_gives_the_outcome_and_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = ("--srat", "srat.bin", "--slit", "slit.bin", "--mem", "1G")
    document = _json(capsys, 0, "predict", *tables, "--cmdline", "movable_node")
    assert document["schema"] == 1
    assert document["source"] == "model"
    assert document["numa"] == {"state": "srat", "reason": "accepted"}
    assert document["zone_movable_start"] == {"1": 512 << 20}
    assert [zone["zone"] for zone in document["zones"]] == ["DMA", "DMA32", "Movable"]
    assert [entry["use"] for entry in document["why"]["entries"]] == ["accepted", "accepted"]
    assert run(("predict", *tables, "--cmdline", "movable_node")) == 0
    text = capsys.readouterr().out
    assert "1  Movable  0x20000000-0x3ffe0000" in text
    assert "\x1b" not in text


def test_predict_says_what_took_the_hotplug_flag(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("gen", "--from", "srat.bin", "--hotplug", "all", "-o", "hot")) == 0
    capsys.readouterr()
    arguments = ("predict", "--srat", "hot/srat.bin", "--mem", "1G", "--cmdline", "movable_node")
    document = _json(capsys, 1, *arguments)
    assert "kernel image" in document["why"]["kernel_nodes"]["0"]
    assert run(arguments) == 1
    assert "kernel image" in capsys.readouterr().out


def test_a_case_file_is_the_same_as_its_parts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(machine=Q35(1 << 30), tables=((here / "srat.bin").read_bytes(),), cmdline="movable_node")
    (here / "case.json").write_text(json.dumps(case.to_json()))
    (here / "machine.json").write_text(json.dumps(case.resolved().to_json()))
    parts = ("--srat", "srat.bin", "--cmdline", "movable_node")
    by_case = _json(capsys, 0, "predict", "case.json")
    assert by_case == _json(capsys, 0, "predict", *parts, "--mem", "1G")
    assert by_case["zones"] == _json(capsys, 0, "predict", *parts, "--machine", "machine.json")["zones"]


def test_fuzz_saves_what_replay_reproduces(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = _json(capsys, 1, "fuzz", "--iterations", "100", "--seed", "1", "--out", "found")
    assert (document["schema"], document["seed"], document["iterations"]) == (1, 1, 100)
    assert (document["boots"], document["boots_via"]) == (0, {})
    saved = {Path(finding["case"]) for finding in document["findings"]}
    assert len(saved) == len(document["findings"])
    assert {path.name for path in saved} | {"campaign"} == {p.name for p in (here / "found").iterdir()}
    for finding in document["findings"]:
        assert finding["count"] >= 1
        replayed = _json(capsys, 1, *finding["replay"].split()[1:])
        assert replayed["reproduced"] == {finding["signature"]: True}


def test_fuzz_does_the_same_with_more_jobs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (
        _json(capsys, 1, "fuzz", "--iterations", "200", "--seed", "3", "--jobs", jobs, "--out", "found")
        for jobs in ("1", "2")
    )
    assert one["findings"] == two["findings"]


def test_fuzz_names_where_kernels_disagree(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("fuzz", "--iterations", "300", "--seed", "0", "--kernel", "v6.1,v7.3", "--out", "found")
    differ = [f for f in _json(capsys, 1, *arguments)["findings"] if f["id"].startswith("DIFF-")]
    assert {"DIFF-ZONES", "DIFF-BLOCKS"} <= {f["id"] for f in differ}
    for finding in differ:
        assert finding["kernels"] == ["v6.1", "v7.3"]
        replayed = _json(capsys, 1, *finding["replay"].split()[1:])
        assert replayed["reproduced"] == {finding["signature"]: True}


def test_replay_of_a_mended_case_is_clean(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = _json(capsys, 1, "fuzz", "--iterations", "50", "--seed", "1", "--out", "found")
    stored = json.loads(Path(document["findings"][0]["case"]).read_text())
    stored["case"]["tables"] = []
    stored["findings"] = [document["findings"][0]["signature"]]
    (here / "mended.json").write_text(json.dumps(stored))
    replayed = _json(capsys, 0, "replay", "mended.json")
    assert replayed["reproduced"] == {document["findings"][0]["signature"]: False}


def test_kernel_list_names_every_kernel(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernels = _json(capsys, 0, "kernel", "list")["kernels"]
    assert {"v5.10", "v6.1", "v6.12", "v7.3"} <= {kernel["name"] for kernel in kernels}


def test_write_file_replaces_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old" * 1000)
    link = tmp_path / "link"
    link.symlink_to(target)
    write_file(link, b"new")
    assert target.read_bytes() == b"new"
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"f", "link"}
