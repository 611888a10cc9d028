"""The former home of `data.preparation.clips`: scripts that were written against it go on working."""

from ltx_jax.data.preparation.clips import Clip, ClipRules, Video, plan_video, read_clip

__all__ = ["Clip", "ClipRules", "Video", "plan_video", "read_clip"]
