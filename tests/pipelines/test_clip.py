"""Clips on the disk: both codecs and where they come from, written as they are decoded, whole or not at all."""

import json

import av
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.media.video import probe, read_metadata, read_video
from ltx_jax.pipelines.clip import Clip, check_outputs, save_all
from ltx_jax.pipelines.request import FIELDS, Request
from ltx_jax.releases import release

VIDEO = np.random.default_rng(0).integers(0, 255, (17, 32, 32, 3), np.uint8)
AUDIO = np.zeros((2, 8000), np.float32)


def clip(video=VIDEO, **more) -> Clip:
    request = Request(("x",), seed=2**64 - 1, steps=4).resolve(release("toy"))
    return Clip(video, 8.0, AUDIO, 16000, request.metadata("a red circle", 7, {"model": "toy"}), **more)


def test_the_file_has_both_codecs_and_all_that_made_it(tmp_path):
    path = clip().save(tmp_path / "take:1.mp4")
    info = probe(path)
    assert (info.frames, info.fps, info.width, info.has_audio) == (17, 8.0, 32, True)
    with av.open(f"file:{path}") as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.audio[0].codec_context.name == "aac"
    metadata = read_metadata(path)
    assert metadata["prompt"] == "a red circle" and metadata["seed"] == str(2**64 - 1)
    config = json.loads(metadata["config"])
    assert config["steps"] == 4 and config["schedule_tokens"] == 80 and config["sample"] == 7
    apart = {"prompts", "seed", "num_samples"}  # these stand beside the config, or in the clip's number
    apart |= {"enhance_prompt", "enhance_instructions"}  # the prompt that they made stands there
    assert set(config) == {f.name for f in FIELDS} - apart | {"model", "sample"}
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # ready to stream


def test_pieces_are_decoded_when_they_are_written(tmp_path):
    decoded = []

    def pieces():
        for start in range(0, 17, 5):
            decoded.append(start)
            yield VIDEO[start : start + 5]

    lazy = clip(pieces, num_frames=17)
    assert decoded == []
    path = lazy.save(tmp_path / "a.mp4")
    assert decoded == [0, 5, 10, 15] and len(lazy.stills()) == 9 and len(decoded) == 4
    size = dict(frames=17, fps=8.0, height=32, width=32)
    whole = clip().save(tmp_path / "b.mp4")
    assert np.array_equal(read_video(path, **size), read_video(whole, **size))
    assert np.array_equal(lazy.video, VIDEO) and np.array_equal(lazy.stills(), clip().stills())


def test_what_fails_leaves_nothing_and_what_was_finished_is_named(tmp_path):
    def broken():
        yield VIDEO[:5]
        raise UserError("The device is gone.")

    paths = check_outputs(str(tmp_path / "o.mp4"), 3)
    made = save_all(iter([clip(), clip(broken, num_frames=17), clip()]), paths)
    assert next(made).num_frames == 17
    with pytest.raises(UserError, match=r"The device is gone\. Finished and kept: .*o_000\.mp4\.$"):
        next(made)
    assert [p.name for p in tmp_path.iterdir()] == ["o_000.mp4"]


def test_outputs_are_numbered_and_checked_before_anything_is_computed(tmp_path):
    assert [p.name for p in check_outputs(str(tmp_path / "a" / "o.mp4"), 2)] == ["o_000.mp4", "o_001.mp4"]
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "file").write_text("")
    for bad, sheet, words in (
        ("o.txt", None, "no video"), ("o", None, "no video"), ("file/o.mp4", None, "Nothing can be written"),
        ("o.mp4", str(tmp_path / "s.jpg"), "must end in .png"), ("o.mp4", "/proc/none/s.png", "Nothing can be written"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            check_outputs(str(tmp_path / bad), 1, sheet)
