"""The build facts of every row against the kernel they were read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from acpitk.kernel.build import build_of
from acpitk.kernel.policy import BUILDS, POLICIES, KernelBuild


@pytest.mark.parametrize("name", ["v5.10", "v6.1", "v6.12", "v7.3"])
@pytest.mark.kernel
def test_a_row_knows_its_kernel(name: str, kernel_image: Callable[[str], Path]) -> None:
    image = kernel_image(name).read_bytes()
    release = POLICIES[name].source.rsplit(" ", 1)[1]
    if f"Debian {release}-".encode() not in image:
        pytest.skip(f"the row was read from {release}, and this is a later package")
    build = build_of(image, BUILDS[name])
    for field in fields(KernelBuild):
        assert getattr(build, field.name) == getattr(BUILDS[name], field.name), field.name
