"""Recorded reference cases turned into calls of the real code."""
