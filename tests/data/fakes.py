"""Encoders without networks, and a folder of small videos: what preparation does around the networks."""

import time

import numpy as np

from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.records import pack
from ltx_jax.data.preparation.clips import ClipRules
from ltx_jax.data.raw.toyworld import render
from ltx_jax.media.video import write_video

MODEL = {"configuration": "0", "latents": "0"}
RULES = ClipRules((Bucket(16, 16, 9, 8.0), Bucket(16, 32, 9, 8.0)), 16000)


class FakeEncoder:
    """A record of every clip's mean colours and caption's words; `pause` seconds a batch."""

    def __init__(self, pause=0.0):
        self.pause, self.calls = pause, 0

    def __call__(self, clips, items):
        time.sleep(self.pause)
        self.calls += 1
        return [self.record(clip, item) for clip, item in zip(clips, items, strict=True)]

    def record(self, clip, item):
        tokens = item["video"].reshape(len(item["video"]), -1, 3).mean(1).astype(np.float32)  # (F, 3)
        audio = item["audio"][:, :8].astype(np.float32)
        features = np.full((len(clip.caption.split()), 4), len(clip.caption), np.float32)
        metadata = {"caption": clip.caption, "has_audio": str(int(item["has_audio"])), "file": clip.name, "start": "0"}
        return pack({"video": tokens, "audio": audio, "video_features": features}, metadata)

    def empty(self):
        return pack({"video_features": np.zeros((1, 4), np.float32)}, {"caption": ""})


def write_clips(folder, count=7):
    """Square and wide clips with captions, among them one that is no video and one that is cut off."""
    for i in range(count):
        clip = render(0, i)
        video = np.concatenate([clip.video, clip.video], axis=2) if i % 3 == 2 else clip.video
        write_video(folder / f"clip{i}.mp4", video[:, :, :64], 8, clip.audio, 16000)
        (folder / f"clip{i}.txt").write_text(clip.caption)
    (folder / "broken.mp4").write_text("no video")
    whole = (folder / "clip0.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder
