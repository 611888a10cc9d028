"""Clips as people have them: folders and lists of videos, and the procedural toy world."""
