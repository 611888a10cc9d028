"""Attention kernels and their one front door."""
