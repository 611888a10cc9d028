"""Encoded clips on disk: records, prepared and precomputed folders, mixtures of them."""
