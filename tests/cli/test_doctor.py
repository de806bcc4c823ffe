"""What the doctor says is what is here."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from acpitk.cli import doctor, run
from acpitk.oracle import store
from acpitk.qemu.host import kvm_problem
from acpitk.qemu.image import SUITES


def _checks(capsys: pytest.CaptureFixture[str], status: int = 0) -> dict[str, Any]:
    assert run(("doctor", "--json")) == status
    document = json.loads(capsys.readouterr().out)
    assert document["prediction_works"] is (status == 0)
    return {check["name"]: check for check in document["checks"]}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No tool on PATH, an empty cache."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path))
    return tmp_path


def test_without_any_tool_prediction_works_and_each_lack_has_its_remedy(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = _checks(capsys)
    for name in ("iasl", "QEMU", "C compiler", "browser", *(f"kernel {name}" for name in SUITES)):
        assert checks[name]["status"] == "note", name
        assert checks[name]["fix"], name
        assert "\n" not in checks[name]["fix"]
    assert run(("doctor",)) == 0
    assert "acpitk kernel fetch v6.1" in capsys.readouterr().out


def test_a_damaged_kernel_is_found(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = bare / "kernels" / "v6.1"
    directory.mkdir(parents=True)
    (directory / "vmlinux").write_bytes(b"damaged")
    meta = {"name": "v6.1", "version": "6.1.0", "size": 7, "sha256": "0" * 64}
    (directory / "meta.json").write_text(json.dumps(meta))
    checks = _checks(capsys)
    assert checks["kernel v6.1"]["status"] == "broken"
    assert f"rm -r {directory}" in checks["kernel v6.1"]["fix"]
    assert checks["cache"]["detail"].startswith(f"{bare}, 1K in 2 files")


def test_oracles_say_whether_they_are_to_be_used(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not any(name.startswith("oracle") for name in _checks(capsys))
    worker = b"a worker"
    meta = {"release": "6.1.0", "row": "v6.1", "gated": 5, "sha256": sha256(worker).hexdigest()}
    ours = store._shim_digest()
    for name, shim, content in (
        ("v6.1", ours, worker),
        ("v7.3", "another's", worker),
        ("mine", ours, b"damaged"),
        ("mine too", "another's", worker),  # no name of an oracle
    ):
        directory = bare / "oracles" / name
        directory.mkdir(parents=True)
        (directory / "worker").write_bytes(content)
        (directory / "meta.json").write_text(json.dumps(meta | {"shim": shim}))
    checks = {name: check for name, check in _checks(capsys).items() if name.startswith("oracle")}
    assert {name: check["status"] for name, check in checks.items()} == {
        "oracle v6.1": "ok",
        "oracle v7.3": "note",
        "oracle mine": "broken",
    }
    assert "5 recorded boots repeated" in checks["oracle v6.1"]["detail"]
    assert "fix" not in checks["oracle v6.1"]
    assert checks["oracle v7.3"]["fix"] == "acpitk oracle build v7.3"
    assert checks["oracle mine"]["fix"] == "acpitk oracle build --source TREE --name mine"
    fetched = bare / "kernels" / "v6.1"
    fetched.mkdir(parents=True)
    (fetched / "vmlinux").write_bytes(b"newer")
    (fetched / "meta.json").write_text(
        json.dumps({"name": "v6.1", "version": "6.1.1", "size": 5, "sha256": sha256(b"newer").hexdigest()})
    )
    assert _checks(capsys)["oracle v6.1"]["detail"] == "stale: of 6.1.0, and the fetched kernel is 6.1.1"
    assert run(("doctor",)) == 0
    assert "acpitk oracle build v6.1" in capsys.readouterr().out


def test_a_tool_that_does_not_run_is_said(
    bare: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs = tmp_path_factory.mktemp("bin")
    for name in ("iasl", "qemu-system-x86_64", "gcc", "chromium"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    checks = _checks(capsys)
    for name in ("iasl", "QEMU", "C compiler", "browser"):
        assert checks[name]["status"] == "note", name


def test_without_the_model_it_is_status_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("acpitk.cli.topologies._PRESETS", tmp_path)
    assert _checks(capsys, status=3)["prediction"]["status"] == "broken"


def test_kvm_without_a_device(tmp_path: Path) -> None:
    assert kvm_problem(Path("qemu"), tmp_path / "kvm") == f"{tmp_path}/kvm: No such file or directory"


@pytest.mark.qemu
def test_kvm_that_is_no_kvm_is_found(
    qemu_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "qemu"
    fake.write_text('#!/bin/sh\necho "kvm: entry failed" >&2\nexit 1\n')
    fake.chmod(0o755)
    assert kvm_problem(fake, Path("/dev/null")) == "kvm: entry failed"


@pytest.mark.iasl
@pytest.mark.qemu
@pytest.mark.kernel("v6.1")
def test_with_tools_it_names_them(
    iasl_path: Path,
    qemu_path: Path,
    kernel_image: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kernel = kernel_image("v6.1")
    checks = _checks(capsys)
    assert str(iasl_path) in checks["iasl"]["detail"]
    assert str(qemu_path) in checks["QEMU"]["detail"]
    assert str(kernel) in checks["kernel v6.1"]["detail"]
    assert checks["kernel v6.1"]["status"] == "ok"
    assert checks["KVM"]["status"] == ("ok" if kvm_problem(qemu_path) is None else "note")


def test_every_status_is_documented() -> None:
    assert "Exit status 3" in (doctor.command.help or "")
