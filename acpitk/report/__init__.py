"""Outcomes and findings as something to read."""
