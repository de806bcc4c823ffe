"""acpitk: predict, boot and fuzz what Linux makes of firmware memory-affinity tables.

`acpitk.api` documents the names below; they are imported when first used.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # true to type checkers; typing itself costs more to import than the rest of this

__all__ = (
    "Q35",
    "AcpitkError",
    "Case",
    "DecodeError",
    "EncodeError",
    "Finding",
    "Machine",
    "MemoryAffinity",
    "MemoryFlags",
    "Outcome",
    "Prediction",
    "Severity",
    "Slit",
    "Srat",
    "ToolError",
    "UsageError",
    "__version__",
    "boot",
    "build_slit",
    "build_srat",
    "decode_slit",
    "decode_srat",
    "encode_slit",
    "encode_srat",
    "findings",
    "lint",
    "predict",
    "topology_tables",
)

if TYPE_CHECKING:
    from acpitk.api import (
        Q35,
        AcpitkError,
        Case,
        DecodeError,
        EncodeError,
        Finding,
        Machine,
        MemoryAffinity,
        MemoryFlags,
        Outcome,
        Prediction,
        Severity,
        Slit,
        Srat,
        ToolError,
        UsageError,
        boot,
        build_slit,
        build_srat,
        decode_slit,
        decode_srat,
        encode_slit,
        encode_srat,
        findings,
        lint,
        predict,
        topology_tables,
    )
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from acpitk import api

        value = globals()[name] = getattr(api, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
