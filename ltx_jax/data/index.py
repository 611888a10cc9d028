"""The former home of `data.raw.index`: scripts that were written against it go on working."""

from ltx_jax.data.raw.index import Entry, Index, build_index, listed_videos

__all__ = ["Entry", "Index", "build_index", "listed_videos"]
