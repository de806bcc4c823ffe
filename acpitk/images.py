"""What the model says of one kernel image: its row, with the build facts the image itself tells."""

from __future__ import annotations

import mmap
from functools import lru_cache

from acpitk.kernel.boot import predict
from acpitk.kernel.build import build_of
from acpitk.kernel.policy import BUILDS, KernelBuild, KernelPolicy
from acpitk.kernel.prediction import Prediction
from acpitk.machine import Case
from acpitk.qemu.image import KernelImage


@lru_cache(maxsize=16)
def build_for(image: KernelImage, row: KernelPolicy) -> KernelBuild:
    """The build facts of `image`; what it does not tell is as in the kernel the row was read from.

    Raises:
        DecodeError: the image is no vmlinux of x86-64 with BTF.
    """
    with image.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as vmlinux:
        return build_of(vmlinux, BUILDS[row.name])


def predict_image(case: Case, image: KernelImage, row: KernelPolicy) -> Prediction:
    """The prediction for booting `case` on `image`, by the policy `row`.

    Raises:
        DecodeError: as `build_for`.
    """
    return predict(case, row, build_for(image, row))
