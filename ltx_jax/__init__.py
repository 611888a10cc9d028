"""ltx-jax: the LTX-2 family of audio-video latent diffusion transformers in JAX.

model = ltx_jax.load("toy")
(clip,) = ltx_jax.generate(model, "a red circle", seed=1)
clip.save("out.mp4")
"""

from typing import Any

__all__ = ["Clip", "generate", "load"]


def load(checkpoint: Any = None, text_encoder: Any = None) -> Any:
    """A model from a folder or an official file; None or "toy" is the tiny one that ships with the package."""
    from ltx_jax.pipelines.runner import open_model

    return open_model(checkpoint, text_encoder)


def generate(
    model: Any, prompt: str | tuple[str, ...], *, mesh: Any = None, progress: bool = False, **settings: Any
) -> list:
    """Clips of one prompt or several. settings: fields of `pipelines.request.Request` (seed, steps, cfg, ...)."""
    from ltx_jax.pipelines import runner
    from ltx_jax.pipelines.request import Request

    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    return runner.generate(model, Request(prompts, **settings), mesh=mesh, progress=progress)


def __getattr__(name: str) -> Any:
    if name == "Clip":  # imported when used: `import ltx_jax` stays cheap
        from ltx_jax.pipelines.clip import Clip

        return Clip
    raise AttributeError(f"module 'ltx_jax' has no attribute {name!r}")
