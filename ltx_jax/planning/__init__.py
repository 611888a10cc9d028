"""Ahead-of-time compilation for hardware that is not here."""
