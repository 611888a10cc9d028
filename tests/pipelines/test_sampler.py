"""The shipped toy: clips with sound, reproducible, independent of their batch; a sampler compiles a shape once."""

import threading

import jax
import numpy as np
import pytest

import ltx_jax
from ltx_jax import releases
from ltx_jax.bundle import Bundle
from ltx_jax.data.raw.toyworld import render
from ltx_jax.errors import UserError
from ltx_jax.media.images import write_png
from ltx_jax.pipelines import decoding, tasks
from ltx_jax.pipelines.previews import Previews
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import BATCH, Sampler

PROMPTS = ("a red circle", "a blue square")


@pytest.fixture(scope="module")
def model():
    return ltx_jax.load("toy")


@pytest.fixture(scope="module")
def clips(model):
    return ltx_jax.generate(model, PROMPTS, seed=3, steps=4)


@pytest.fixture
def compiled():
    """The durations of all compilations while a test runs."""
    found: list[float] = []

    def listen(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_clips_have_the_release_sizes(clips):
    for clip in clips:
        assert clip.video.shape == (17, 32, 32, 3) and clip.video.dtype == np.uint8
        assert clip.audio.shape[0] == 2 and np.isfinite(clip.audio).all() and np.abs(clip.audio).max() <= 1


def test_equal_seeds_give_equal_bits_other_seeds_other_clips_and_nothing_is_compiled_again(model, clips, compiled):
    again = ltx_jax.generate(model, PROMPTS, seed=3, steps=4)
    assert np.array_equal(clips[0].video, again[0].video) and np.array_equal(clips[0].audio, again[0].audio)
    other = ltx_jax.generate(model, ["a green triangle", "a yellow diamond"], seed=4, steps=4, cfg=2.5)
    assert not np.array_equal(clips[0].video, other[0].video)
    assert compiled == []
    ltx_jax.generate(model, PROMPTS, seed=3, steps=5)  # another static plan: the loop alone
    assert 0 < len(compiled) < 5


def test_a_clip_does_not_depend_on_the_others(model, clips):
    alone = ltx_jax.generate(model, "a red circle", seed=3, steps=4)
    difference = np.abs(alone.video.astype(int) - clips[0].video.astype(int))
    assert difference.max() <= 2  # one rounding of pixels apart: the batch changes the order of sums
    assert BATCH > 1


def test_steppers_that_draw_noise_repeat_themselves_and_compile_once(model, compiled):
    def make(eta, seed=3):
        settings = dict(steps=3, stepper="euler_ancestral", eta=eta, skip_step=1)
        return ltx_jax.generate(model, "a red circle", seed=seed, **settings).video

    first, before = make(1.0), len(compiled)
    np.testing.assert_array_equal(make(1.0), first)
    assert not np.array_equal(make(0.5), first) and not np.array_equal(make(1.0, seed=4), first)
    assert len(compiled) == before  # how much noise is drawn is a number of the program


def test_the_first_frame_follows_the_picture(model, tmp_path):
    picture = render(5, 3).video[0]  # one big shape: the small toy VAE shows it well
    path = write_png(picture, tmp_path / "first.png")
    held = ltx_jax.generate(model, "a red circle", seed=3, steps=4, image=str(path))
    free = ltx_jax.generate(model, "a red circle", seed=3, steps=4)
    error = lambda clip: np.abs(clip.video[0].astype(float) - picture).mean()
    assert error(held) < 12 and error(held) < error(free) / 2


def test_large_seeds_are_used_whole(model):
    seeds = (1, 2**32 + 1, 2**63, 2**64 - 1)
    first = [ltx_jax.generate(model, "a red circle", seed=seed, steps=1).video for seed in seeds]
    assert all(not np.array_equal(a, b) for i, a in enumerate(first) for b in first[:i])


def test_threads_share_a_sampler(model, clips, compiled):
    found: dict[int, list] = {}
    work = lambda seed: found.update({seed: ltx_jax.generate(model, PROMPTS, seed=seed, steps=4)})
    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[3][1].video, clips[1].video) and not np.array_equal(found[4][1].video, clips[1].video)
    assert compiled == []


@pytest.mark.slow  # a CPU compiles the decoders in bfloat16 for minutes
def test_networks_compute_in_the_type_that_is_asked_for(model):
    small = Request(("a red circle",), seed=3, steps=2, cfg=1.0, num_frames=5)
    (clip,), (wide,) = (s.generate(small) for s in (Sampler(model.bundle, dtype="bfloat16"), model.sampler))
    difference = np.abs(clip.video.astype(int) - wide.video.astype(int))
    assert 0 < difference.mean() < 8 and '"dtype": "bfloat16"' in clip.metadata["config"]
    with pytest.raises(UserError, match="float32 or bfloat16, not in 'float16'"):
        ltx_jax.load("toy", dtype="float16")


def test_a_long_clip_is_decoded_in_tiles_as_it_is_needed(model, clips, monkeypatch):
    monkeypatch.setattr(decoding, "WHOLE", (9, 16))
    monkeypatch.setattr(
        decoding, "long_side_tiling", lambda *_: decoding.Tiling(frames=(8, 4), height=None, width=None)
    )
    tiled = ltx_jax.generate(model, PROMPTS, seed=3, steps=4)[0]
    frames = tiled.frames()
    first = next(frames)
    assert first.shape == (32, 32, 3) and len(list(frames)) == 16
    difference = np.abs(tiled.video.astype(int) - clips[0].video.astype(int))
    assert tiled.video.shape == clips[0].video.shape and difference.mean() < 6
    assert len(tiled.stills()) == 9 and np.array_equal(tiled.stills()[-1], tiled.video[-1])


def test_previews_take_the_weights_of_the_moment_and_compile_once(model, tmp_path, compiled):
    params = {part: model.bundle.params[part] for part in model.bundle.params}
    previews = Previews(model.bundle.release, model.bundle.tokenizer, model.sampler.mesh, ("a red circle",))
    previews(params, 1, tmp_path)
    compiled.clear()
    changed = params | {"transformer": jax.tree.map(lambda x: x * 1.5, params["transformer"])}
    previews(changed, 2, tmp_path)
    assert compiled == []
    first, second = ((tmp_path / f"step_00000{i}.png").read_bytes() for i in (1, 2))
    assert first != second and (tmp_path / "step_000002.mp4").is_file()


def test_a_sampler_refuses_weights_of_another_release(model):
    other = Bundle(releases.release("ltx2_19b"), {})
    with pytest.raises(UserError, match="own release"):
        model.sampler.use(other)


def test_a_task_is_a_row(model, monkeypatch):
    """A second stage that goes on from the first, and one that keeps its sound: declared here, run as they are."""

    def refined(request: Request) -> tuple[tasks.Stage, ...]:
        (first,) = tasks.one_stage(request)
        again = tasks.Part(start="previous")
        kept = tasks.Part(start="previous", frozen=True)
        return (first, tasks.Stage(first.shape, (0.4, 0.2, 0.0), again, kept))

    request = Request(PROMPTS, seed=3, steps=4)
    plain = model.sampler.generate(request)
    monkeypatch.setitem(tasks.TASKS, "refined", tasks.Task("Two stages.", refined))
    twice = model.sampler.generate(request)
    assert np.array_equal(twice[0].audio, plain[0].audio)
    difference = np.abs(twice[0].video.astype(int) - plain[0].video.astype(int)).mean()
    assert 0 < difference < 30  # of the same clip, in other noise


def test_mistakes_are_said(model):
    with pytest.raises(UserError, match="no setting 'stepz'"):
        ltx_jax.generate(model, "x", stepz=3)
