"""`python -m acpitk`."""

from acpitk.cli import main

main()
