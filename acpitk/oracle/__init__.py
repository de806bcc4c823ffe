"""The kernel's own early NUMA code, compiled into a process, as an oracle."""
