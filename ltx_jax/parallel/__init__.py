"""Meshes, sharding rules and compiled programs."""
