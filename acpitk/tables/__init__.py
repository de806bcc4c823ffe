"""ACPI tables: bytes <-> value objects named as the specification names them, without loss."""
