"""The former home of the sampler: scripts that were written against `open_model` go on working."""

from pathlib import Path

from ltx_jax.bundle import Bundle
from ltx_jax.pipelines import sampler


def open_model(checkpoint: str | Path = "toy", text_encoder: str | Path | None = None) -> Bundle:
    """The parts of the model at `checkpoint`; see `pipelines.sampler.open_model`, which gives its sampler as well."""
    return sampler.open_model(checkpoint, text_encoder).bundle
