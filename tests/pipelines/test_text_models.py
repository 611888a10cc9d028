"""What text models do before a clip is made: prompts are written out, and the duration head chooses the length."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers

import ltx_jax
from ltx_jax import releases
from ltx_jax.bundle import Bundle
from ltx_jax.checkpoints.safetensors import write_safetensors
from ltx_jax.errors import UserError
from ltx_jax.models.text.config import Gemma3Config
from ltx_jax.models.text.duration import DurationConfig, duration_frames
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.names import to_official
from ltx_jax.parts import DURATION_PREFIX, find_part
from ltx_jax.pipelines import enhance
from ltx_jax.pipelines.request import Request
from ltx_jax.pipelines.sampler import Sampler

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny import save_tiny_model, tiny_release

PROMPTS = ("a red circle", "a blue square; the square bounces")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def chat(folder, tmp_path_factory):
    """A folder of a chat model alone: random weights, and a tokenizer that knows turns."""
    known = tokenizers.Tokenizer.from_file(str(folder / "text_encoder" / "tokenizer.json"))
    known.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    text = dataclasses.replace(tiny_release().text, vocab_size=known.get_vocab_size())
    made = save_tiny_model(
        tmp_path_factory.mktemp("chat"), 1, dataclasses.replace(tiny_release(), text=text),
        Tokenizer(known.to_str().encode(), 16),
    )  # fmt: skip
    return made / "text_encoder"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A file of a duration head that tells prompts apart."""
    connectors = tiny_release().connectors
    config = DurationConfig(connectors.video.width, connectors.audio.width, 8, 2, 2, 8)
    release = dataclasses.replace(tiny_release(), duration_head=config)
    part, rng = find_part(release, "duration_head"), np.random.default_rng(1)
    vectors = {"query_tokens": (2, 8), "video_modality_emb": (8,), "audio_modality_emb": (8,)}
    sizes = {
        "in_proj": (8, 24), "out_proj": (8, 8), "video_input_proj": (connectors.video.width, 8),
        "audio_input_proj": (connectors.audio.width, 8), "mlp_hidden": (16, 8), "mlp_out": (8, 1),
    }  # fmt: skip
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)
    params = {name: draw(shape) for name, shape in vectors.items()}
    params |= {
        name: {"kernel": shape[0] ** -0.5 * draw(shape), "bias": 0 * draw(shape[1:])} for name, shape in sizes.items()
    }
    path = tmp_path_factory.mktemp("head") / "duration.safetensors"
    tensors = to_official(part.names_of(release), params, DURATION_PREFIX)
    write_safetensors(path, tensors, {"config": json.dumps(config.to_official())})
    return path


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Answers of a few tokens."""
    short = dataclasses.replace(enhance.CHATS[Gemma3Config], how=enhance.Writing(12, temperature=0.7, top_k=50))
    monkeypatch.setitem(enhance.CHATS, Gemma3Config, short)


@pytest.fixture(scope="module")
def model(folder, chat, head):
    return ltx_jax.load(folder, files={"duration_head": head}, prompt_enhancer=chat)


def test_prompts_are_written_out_and_clips_last_as_the_head_says(model, capsys):
    settings = {"seed": 3, "steps": 1, "cfg": 1.0, "width": 32, "height": 32}
    made = ltx_jax.generate(model, PROMPTS, enhance_prompt=True, auto_duration=(0.5, 1.1), **settings)
    said = capsys.readouterr().err
    for prompt, clip in zip(PROMPTS, made, strict=True):
        written = clip.metadata["prompt"]
        assert written != prompt and f"'{prompt}' became '{written}'" in said and "<" not in written
        assert written[0].isalpha()
        config = json.loads(clip.metadata["config"])
        assert config["num_frames"] == clip.num_frames and 0.5 <= clip.num_frames / clip.fps <= 1.13
    again = ltx_jax.generate(model, made[0].metadata["prompt"], num_frames=made[0].num_frames, **settings)
    difference = np.abs(again.video.astype(int) - made[0].video.astype(int))
    assert difference.mean() < 0.1  # the batch changes the order of sums


def test_the_head_tells_prompts_apart_and_clips_keep_their_order(model):
    request = Request((*PROMPTS, *PROMPTS), num_samples=2, auto_duration=(0.1, 500), fps=1000.0)
    timed = model.sampler._timed(request.resolve(model.bundle.release))
    assert [len(clips) for _, clips in timed] == [2] * 4
    assert [clip for _, clips in timed for clip in clips] == request.clips
    frames = [one.num_frames for one, _ in timed]
    assert frames[:2] == frames[2:] and frames[0] != frames[1] and all(n % 2 for n in frames)


def test_answers_follow_the_seed_and_the_instructions(model, tmp_path):
    ask = lambda **settings: model.sampler._enhanced(
        Request(PROMPTS[:1], enhance_prompt=True, **{"seed": 3, **settings})
    ).prompts[0]
    other = tmp_path / "instructions.txt"
    other.write_text("Answer in capitals.")
    assert ask() == ask() != ask(seed=4)
    assert ask(enhance_instructions=str(other)) != ask()


def test_mistakes_are_said_before_anything_is_computed(model):
    toy, x = ltx_jax.load("toy"), "a red circle"
    for who, settings, words in (
        (toy, {"enhance_prompt": True}, "no chat model .*--prompt_enhancer"),
        (toy, {"auto_duration": (1, 20)}, "no duration head"),
        (model, {"auto_duration": (3, 1)}, "shortest"),
        (model, {"enhance_prompt": True, "image": "x.png"}, "vision tower"),
    ):
        with pytest.raises(UserError, match=words):
            ltx_jax.generate(who, x, **settings)
    only_encodes = Sampler(Bundle(releases.release("ltx2_5_22b"), {}))
    with pytest.raises(UserError, match="only encodes"):
        only_encodes.clips(Request((x,), enhance_prompt=True))
    with pytest.raises(UserError, match=r"--prompt_enhancer takes.*config\.json"):
        ltx_jax.load("toy", prompt_enhancer="nowhere")


def test_a_head_of_another_model_is_refused(head):
    with pytest.raises(UserError, match="duration head reads texts of other widths"):
        ltx_jax.load("toy", files={"duration_head": head})


def test_lengths_stay_on_the_grid_of_the_video_vae():
    assert [duration_frames(s, 8.0, 0.5, 3.0, 4) for s in (0.1, 1.0, 1.2, 99)] == [5, 5, 9, 21]
