"""ltx-jax: the LTX-2 family of audio-video latent diffusion transformers in JAX.

model = ltx_jax.load("toy")
clip = ltx_jax.generate(model, "a red circle", seed=1)
clip.save("out.mp4")
"""

from typing import Any

__all__ = ["Clip", "generate", "load"]


def load(
    checkpoint: Any = None, text_encoder: Any = None, *, files: Any = None, loras: Any = (),
    prompt_enhancer: Any = None, mesh: Any = None, dtype: Any = None,
) -> Any:  # fmt: skip
    """A model from its files: an official one of all parts, a folder of any kind, or `hf:ORG/NAME/FILE`.

    "toy", the default, is the tiny model that ships with the package. text_encoder: its folder or file, where the
    checkpoint does not hold it. files: paths of components that lie elsewhere ("transformer", "video_vae", "audio_vae",
    "spatial_upsampler", "duration_head", ...); with all of them no checkpoint is needed. loras: PATH or PATH:STRENGTH
    each, merged into the weights. prompt_enhancer: the folder of a chat model, where the text encoder is none. mesh:
    devices to use, all by default. dtype: what networks compute in, float32 or bfloat16; by
    default the latter on accelerators. The model keeps what it compiles and places, so load it once.
    """
    from ltx_jax.pipelines.sampler import open_model

    more = {"files": files, "loras": loras, "prompt_enhancer": prompt_enhancer}
    return open_model(checkpoint, text_encoder, mesh=mesh, dtype=dtype, **more)


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
