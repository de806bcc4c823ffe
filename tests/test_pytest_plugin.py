"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

REPOSITORY = Path(__file__).resolve().parent.parent
_PLUGIN = ("-p", "acpitk.pytest_plugin", "-p", "no:cacheprovider")


def _outcomes(pytester: pytest.Pytester, **expected: int) -> pytest.RunResult:
    result = pytester.runpytest_subprocess(*_PLUGIN, "-rs", "--strict-markers")
    result.assert_outcomes(**expected)
    return result


def test_the_package_declares_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"acpitk.pytest_plugin": "acpitk.pytest_plugin"}


def test_tables_are_built_and_predicted(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_hotplug(acpitk_srat, acpitk_predict):
            srat = acpitk_srat("0:mem=0-512M", "1:mem=512M-1G,hotplug")
            outcome = acpitk_predict(srat, cmdline="movable_node").outcome
            assert outcome.zone_movable_start == {1: 512 << 20}
            assert acpitk_predict([srat], kernel="v7.3").outcome.kernel == "v7.3"

        def test_a_case_says_it_all(acpitk_predict):
            from acpitk import Case, Q35, UsageError
            import pytest
            case = Case(machine=Q35(1 << 30))
            assert acpitk_predict(case).outcome.numa == "dummy"
            with pytest.raises(UsageError):
                acpitk_predict(case, memory=1 << 30)
    """)
    _outcomes(pytester, passed=2)


def test_without_tools_marked_tests_skip_with_the_reason(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ACPITK_CACHE", str(pytester.path / "cache"))
    pytester.makepyfile("""
        import pytest

        @pytest.mark.acpitk_iasl
        def test_iasl(): raise AssertionError
        @pytest.mark.acpitk_qemu
        def test_qemu(): raise AssertionError
        @pytest.mark.acpitk_kernel("v7.3")
        def test_kernel(): raise AssertionError
        def test_fixture(acpitk_srat, acpitk_boot):
            acpitk_boot(acpitk_srat("0:mem=0-1G"))
    """)
    result = _outcomes(pytester, skipped=4)
    result.stdout.fnmatch_lines_random(["*iasl: no such program*", "*qemu-system-x86_64 is not on PATH*"])


@pytest.mark.iasl
@pytest.mark.qemu
@pytest.mark.kernel("v6.1")
def test_with_tools_marked_tests_run(
    pytester: pytest.Pytester, iasl_path: Path, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image("v6.1")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.acpitk_iasl
        @pytest.mark.acpitk_qemu
        @pytest.mark.acpitk_kernel
        def test_boot(acpitk_srat, acpitk_boot, acpitk_predict):
            srat = acpitk_srat("0:mem=0-512M", "1:mem=512M-1G,hotplug")
            assert acpitk_boot(srat).zones == acpitk_predict(srat).outcome.zones
    """)
    _outcomes(pytester, passed=1)


def test_a_run_that_does_not_use_it_does_not_pay_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys
        def test_nothing():
            ours = {name for name in sys.modules if name.split(".")[0] == "acpitk"}
            assert ours == {"acpitk", "acpitk.pytest_plugin"}
            assert not {"construct", "click", "rich"} & set(sys.modules)
    """)
    _outcomes(pytester, passed=1)
