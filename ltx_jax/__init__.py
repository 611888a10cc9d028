"""ltx-jax: the LTX-2 family of audio-video latent diffusion transformers in JAX.

model = ltx_jax.load("toy")
clip = ltx_jax.generate(model, "a red circle", seed=1)
clip.save("out.mp4")
"""

from typing import Any

__all__ = ["Clip", "generate", "load"]


def load(
    checkpoint: Any = "toy", text_encoder: Any = None, *, loras: Any = (), duration_head: Any = None,
    prompt_enhancer: Any = None, mesh: Any = None, dtype: Any = None,
) -> Any:  # fmt: skip
    """A model from a folder or an official file; "toy" is the tiny one that ships with the package.

    text_encoder: its folder, where it does not lie beside the checkpoint. loras: PATH or PATH:STRENGTH each, merged
    into the weights. duration_head: its file, and prompt_enhancer: the folder of a chat model, where the checkpoint has
    none. mesh: devices to use, all by default. dtype: what networks compute in, float32 or bfloat16; by
    default the latter on accelerators. The model keeps what it compiles and places, so load it once.
    """
    from ltx_jax.pipelines.sampler import open_model

    more = {"duration_head": duration_head, "prompt_enhancer": prompt_enhancer}
    return open_model(checkpoint, text_encoder, loras=loras, mesh=mesh, dtype=dtype, **more)


def generate(model: Any, prompt: str | list[str] | tuple[str, ...], *, progress: bool = False, **settings: Any) -> Any:
    """The clip of one prompt, or the clips of several as a list, num_samples of each.

    settings: fields of `pipelines.request.Request` (seed, steps, cfg, num_frames, image, ...). One string gives one
    Clip, or a list where num_samples is given. Raises UserError for what the model cannot serve.
    """
    from ltx_jax.pipelines.request import make_request

    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    clips = model.sampler.generate(make_request(prompts, settings), progress=progress)
    return clips[0] if isinstance(prompt, str) and "num_samples" not in settings else clips


def __getattr__(name: str) -> Any:
    if name == "Clip":  # imported when used: `import ltx_jax` stays cheap
        from ltx_jax.pipelines.clip import Clip

        return Clip
    raise AttributeError(f"module 'ltx_jax' has no attribute {name!r}")
