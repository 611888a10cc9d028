"""What all stages of a run share, and how the first state of a stage is made."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ltx_jax.codec import AUDIO_ENCODER, VIDEO_ENCODER
from ltx_jax.config import to_mapping
from ltx_jax.data.config import DataConfig
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.program import Program, place
from ltx_jax.parts import config_names
from ltx_jax.releases import Release
from ltx_jax.training.autoencoders.adversarial import DISCRIMINATORS
from ltx_jax.training.autoencoders.objectives import AUDIO_PARTS, VIDEO_PARTS
from ltx_jax.training.config import StageName, TrainingConfig
from ltx_jax.training.dit.objective import DIT_PARTS
from ltx_jax.training.optimizer import make_optimizer
from ltx_jax.training.state import TrainState, initial_state

Params = Mapping[str, Any]
# (parameters of all parts by name, step, folder): writes samples of the model so far.
SampleCallback = Callable[[dict[str, Any], int, Path], None]

UPSAMPLER = "spatial_upsampler"
# The parts that a stage trains, the transformer's where nothing of them stays frozen.
PARTS: dict[StageName, tuple[str, ...]] = {
    "video_vae": VIDEO_PARTS, "audio_vae": AUDIO_PARTS, "upsampler": (UPSAMPLER,), "dit": DIT_PARTS,
}  # fmt: skip

# The configurations that a stage's weights depend on.
DEPENDS: dict[StageName, tuple[str, ...]] = {
    "video_vae": tuple(config_names(*VIDEO_PARTS)),
    "audio_vae": tuple(config_names(*AUDIO_PARTS)),
    "upsampler": tuple(config_names(*VIDEO_PARTS, UPSAMPLER)),
    "dit": (*config_names(*DIT_PARTS, *VIDEO_ENCODER, *AUDIO_ENCODER), "text_length", "process"),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """The model, the configuration and the place of a run. sample: shows the transformer's work, if anything does."""

    release: Release
    config: TrainingConfig
    data: DataConfig
    mesh: Mesh
    workdir: Path
    tokenizer: Tokenizer | None = None
    sample: SampleCallback | None = None

    def identity(self, name: StageName) -> dict[str, Any]:
        """The configuration that checkpoints of a stage must agree with, JSON-able."""
        model = {key: to_mapping(getattr(self.release, key)) for key in DEPENDS[name]}
        stage = to_mapping(self.config.stage(name))
        data = {k: v for k, v in to_mapping(self.data).items() if k not in ("workers", "on_error")}
        return {"model": model, "data": data, "training": {"seed": self.config.seed, name: stage}}


def make_initializer(
    setting: Setting, program: Program, name: StageName, random: Callable[[], Params], start: Params | None, axes: Any
) -> Callable[[], TrainState]:
    """The maker of a stage's first state: parameters of `random`, or those of `start` where it is given.

    `start` may hold more than the stage trains, by part: what stays frozen, or is measured when a stage has ended. A
    discriminator begins at random, since no model keeps one. axes: logical axes of the trained parameters.
    """
    config, abstract = setting.config.stage(name), program.arguments["state"]
    optimizer = make_optimizer(config.optimizer, axes, config.other_optimizers)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    given = [part for part in abstract.params if start is not None and part not in DISCRIMINATORS]
    drawn = [part for part in abstract.params if part not in given]

    def initialize() -> TrainState:
        with jax.set_mesh(setting.mesh):
            some = lambda tree, parts: {part: tree[part] for part in parts}
            params = place(some(start, given), some(abstract.params, given))
            if drawn:
                params |= jax.jit(lambda: some(random(), drawn), out_shardings=some(shardings.params, drawn))()
            make = functools.partial(initial_state, optimizer=optimizer, config=config)
            return jax.jit(make, out_shardings=shardings)(params)

    return initialize
