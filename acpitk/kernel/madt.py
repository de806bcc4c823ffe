"""The MADT as Linux reads it early in a boot: whether ACPI survives it, and which processors it counts.

Sources (6.1): early_acpi_process_madt(), acpi_parse_lapic() and acpi_parse_x2apic() in
arch/x86/kernel/acpi/boot.c, acpi_parse_entries_array() in drivers/acpi/tables.c.
"""

from __future__ import annotations

from acpitk.ranges import KIB

ENTRIES = 44
"""Bytes before the first entry."""
LAPIC, LAPIC_OVERRIDE, X2APIC = 0, 5, 9
_LAPIC_SIZE, _OVERRIDE_SIZE, _X2APIC_SIZE = 8, 12, 16
_MAX_MAPPING = 256 * KIB
_ENABLED = 1
DISABLES = "Invalid BIOS MADT, disabling ACPI"
"""What Linux says of one that ends ACPI."""


def disables_acpi(table: bytes) -> bool:
    """Whether the walk for address overrides fails: an entry of length 0, or too short an override."""
    length = int.from_bytes(table[4:8], "little")
    if not 0 < length <= _MAX_MAPPING or len(table) < ENTRIES:
        return False
    at, data, wrong = ENTRIES, table.ljust(length + 2, b"\0"), False
    while at + 2 < length:
        size = data[at + 1]
        wrong |= data[at] == LAPIC_OVERRIDE and (size < _OVERRIDE_SIZE or at + _OVERRIDE_SIZE > length)
        if size == 0:
            return True
        at += size
    return wrong


def processors(table: bytes, limit: int) -> list[int]:
    """APIC IDs of the possible processors besides the boot processor: the enabled ones, then the others.

    Args:
        table: one that does not disable ACPI.
        limit: the first APIC ID that the kernel refuses.
    """
    enabled: dict[int, None] = {0: None}
    disabled: list[int] = []
    at, length = ENTRIES, min(int.from_bytes(table[4:8], "little"), len(table))
    while at + 2 < length and table[at + 1]:
        entry = table[at : at + table[at + 1]]
        if entry[0] == LAPIC and len(entry) >= _LAPIC_SIZE:
            apic_id, flags = entry[3], entry[4]
        elif entry[0] == X2APIC and len(entry) >= _X2APIC_SIZE:
            apic_id, flags = int.from_bytes(entry[4:8], "little"), entry[8]
        else:
            apic_id, flags = limit, 0
        if apic_id < limit and flags & _ENABLED:
            enabled[apic_id] = None
        elif apic_id < limit:
            disabled.append(apic_id)
        at += table[at + 1]
    return [*list(enabled)[1:], *disabled]
