"""The former home of `data.raw.videos`: scripts that were written against it go on working."""

from ltx_jax.data.raw.videos import VideoSource

__all__ = ["VideoSource"]
