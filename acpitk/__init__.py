"""acpitk: predict, boot and fuzz what Linux makes of firmware memory-affinity tables."""

__version__ = "0.1.0"
