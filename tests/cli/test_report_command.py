"""`acpitk report`: from a campaign, from findings, and from what is neither."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from acpitk.cli import run
from acpitk.cli.campaign import Timeline, load_summary
from acpitk.errors import UsageError
from acpitk.fuzz.campaign import CampaignResult

CORPUS = Path(__file__).resolve().parent.parent.parent / "corpus"
SMALL = next(CORPUS.glob("small-kernel-node-*.json"))


def _data(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `acpitk fuzz --out` writes."""
    out = tmp_path_factory.mktemp("campaign") / "findings"
    assert run(("fuzz", "--iterations", "150", "--seed", "3", "--out", str(out))) == 1
    return out


def test_a_campaign_becomes_a_page(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert run(("report", str(campaign), "-o", str(page))) == 0
    out, err = capsys.readouterr()
    assert out == ""
    html = page.read_text()
    stored = sorted(campaign.glob("*.json"))
    assert f"{len(stored)} findings" in err
    assert html.count('<details class="finding"') == len(stored) == len(_data(html)["findings"])
    assert "Fuzzing campaign, seed 3" in html
    assert "150" in html
    assert "acpitk replay" in html
    assert "qemu-system-x86_64 -machine q35" in html
    assert len(html) < 5_000_000


def test_the_numbers_of_a_campaign_are_kept(campaign: Path) -> None:
    loaded = load_summary(campaign)
    assert loaded is not None
    summary, counts = loaded
    assert (summary.seed, summary.iterations) == (3, 150)
    assert summary.timeline[-1][1:3] == (150, len(counts))
    assert 10 < summary.timeline[-1][3] <= 150
    assert summary.runs["model"] == 150
    signatures = {json.loads(path.read_text())["finding"]["signature"] for path in campaign.glob("*.json")}
    assert set(counts) == signatures
    assert all(count > 0 for count in counts.values())


def test_the_numbers_do_not_disturb_who_reads_the_cases(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ("fuzz", "--iterations", "5", "--from", str(campaign), "--out", str(tmp_path / "again"))
    assert run(again) in (0, 1)
    assert "left out" not in capsys.readouterr().err


def test_one_case_without_a_finding_stands_for_what_is_found_in_it(tmp_path: Path) -> None:
    page = tmp_path / "one.html"
    assert run(("report", str(SMALL), "-o", str(page), "--title", "Board <7>")) == 0
    html = page.read_text()
    assert "POL-BLOCK-STRADDLE" in html
    assert "<title>Board &lt;7&gt;</title>" in html


def test_a_difference_is_explained_with_both_rows(tmp_path: Path) -> None:
    stored = json.loads(SMALL.read_text()) | {"kernel": "v6.1"}
    stored["finding"] = {"id": "DIFF-ZONES", "severity": "warning", "kernels": ["v6.1", "v7.3"]}
    case = tmp_path / "d.json"
    case.write_text(json.dumps(stored))
    page = tmp_path / "r.html"
    assert run(("report", str(case), "-o", str(page))) == 0
    assert f"acpitk explain {case} --kernel v6.1 --compare v7.3<" in page.read_text()


def test_a_console_log_beside_a_finding_is_quoted(tmp_path: Path) -> None:
    case = tmp_path / "f.json"
    shutil.copy(SMALL, case)
    (tmp_path / "f.log").write_bytes(
        b"[0] ACPI: SRAT: Node 1 PXM 1 [mem 0x6000000-0x3fffffff] hotplug \xff</script>\n"
    )
    page = tmp_path / "r.html"
    assert run(("report", str(case), "-o", str(page))) == 0
    console = _data(page.read_text())["findings"][0]["console"]
    assert console.startswith("[0] ACPI: SRAT: Node 1 PXM 1")
    assert console.endswith("</script>")


def test_file_names_are_quoted_for_the_shell_and_inert_in_the_page(tmp_path: Path) -> None:
    case = tmp_path / "a'; rm -rf $HOME <b>.json"
    shutil.copy(SMALL, case)
    page = tmp_path / "r.html"
    assert run(("report", str(case), "-o", str(page))) == 0
    html = page.read_text()
    assert "<b>.json" not in html
    assert "a&#39;&#34;&#39;&#34;&#39;; rm -rf $HOME &lt;b&gt;.json&#39;" in html


def test_bad_files_are_named_and_left_out(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(campaign, mixed)
    (mixed / "broken.json").write_text("{")
    page = tmp_path / "r.html"
    assert run(("report", str(mixed), "-o", str(page))) == 0
    assert "broken.json" in capsys.readouterr().err
    assert "Files left out" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "-o", "r.html"), "nowhere"),
        (("bad", "-o", "r.html"), "broken.json"),
        (("bad",), "-o"),
        (("bad", "-o", "bad"), "is a directory"),
        (("bad", "-o", "no/such/r.html"), "is not a directory"),
        (("odd", "-o", "r.html"), "not the summary of a campaign"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.json").write_text("[]")
    (tmp_path / "odd" / "campaign").mkdir(parents=True)
    (tmp_path / "odd" / "campaign" / "summary.json").write_text('{"seed": []}')
    assert run(("report", *arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_long_campaign_keeps_few_points_and_the_last_one() -> None:
    timeline = Timeline()
    for second in range(5000):
        timeline.add(CampaignResult(done=second * 10, seconds=float(second)))
    assert len(timeline.points) <= 401
    assert timeline.points[-1] == (4999.0, 49990, 0, 0)
    assert [at for at, *_ in timeline.points] == sorted(at for at, *_ in timeline.points)


@pytest.mark.parametrize("text", ["[]", "{", '{"seed":1}', "[" * 5000])
def test_a_summary_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "campaign").mkdir()
    (tmp_path / "campaign" / "summary.json").write_text(text)
    with pytest.raises(UsageError, match=r"summary\.json"):
        load_summary(tmp_path)
