"""The stages of the two autoencoders: raw clips in, networks and the statistics of their latents out."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.bundle import abstract_parts, initial_parts, networks_on
from ltx_jax.data.pipeline import Batches
from ltx_jax.data.raw.item import Source, collate
from ltx_jax.parallel.multihost import batch_share
from ltx_jax.parallel.program import batch_like, place, replicated
from ltx_jax.training.autoencoders import objectives as vae
from ltx_jax.training.autoencoders.adversarial import make_adversary
from ltx_jax.training.autoencoders.preview import audio_preview, video_preview
from ltx_jax.training.config import StageName
from ltx_jax.training.loop import Stage
from ltx_jax.training.setting import PARTS, Params, Setting, make_initializer
from ltx_jax.training.step import make_train_program

STATISTICS: dict[StageName, str] = {"video_vae": "video_statistics", "audio_vae": "audio_statistics"}


def vae_stage(setting: Setting, name: StageName, source: Source, start: Params | None) -> Stage:
    """The stage `video_vae` or `audio_vae` on the clips of `source`. start: parameters to begin with, or None."""
    release, data, mesh, seed = setting.release, setting.data, setting.mesh, setting.config.seed
    video, audio = setting.config.video_vae, setting.config.audio_vae
    config = video if name == "video_vae" else audio

    # --- shapes: of the parameters, and of a batch ------------------------------------------------------------------
    networks = networks_on(mesh, release, config.dtype)
    adversary = make_adversary(name, config.adversarial, networks.dtype, mesh.devices.flat[0].platform)
    with jax.set_mesh(mesh):
        shapes, axes = abstract_parts(networks, PARTS[name])
        if adversary is not None:
            shapes, axes = adversary.add_to(shapes, axes)
            networks = networks.replaced(**{adversary.part: adversary.network})
    struct = lambda shape, dtype: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    if name == "video_vae":
        vae.check_video_stage(release, video, data.frames)
        batch = {"video": struct((data.frames, data.height, data.width, 3), jnp.uint8)}
        objective, preview = vae.VideoVAEObjective(networks, video, seed), video_preview
    else:
        vae.check_audio_stage(release, audio, data.audio_samples)
        batch = {"audio": struct((2, data.audio_samples), jnp.float32), "has_audio": struct((), jnp.bool_)}
        objective, preview = vae.AudioVAEObjective(networks, audio, seed), audio_preview

    # --- step -------------------------------------------------------------------------------------------------------
    program = make_train_program(objective, config, shapes, axes, {}, batch_like(batch, mesh), mesh)

    def random() -> dict[str, Any]:
        return initial_parts(networks, PARTS[name], seed) | (adversary.initial(seed) if adversary else {})

    # --- data -------------------------------------------------------------------------------------------------------
    share, shares = batch_share(mesh, config.batch_size)
    make_batches = functools.partial(
        Batches, source, data.seed, config.batch_size, collate, workers=data.workers, process_index=share,
        process_count=shares,
    )  # fmt: skip
    return Stage(
        name=name, config=config, program=program, frozen={},
        initialize=make_initializer(setting, program, name, random, start, axes), batches=make_batches,
        identity=setting.identity(name), preview=functools.partial(preview, setting, networks, source),
    )  # fmt: skip


def statistics(setting: Setting, name: StageName, stage: Stage, weights: Params) -> dict[str, np.ndarray]:
    """Mean and std of the latents that `weights` make of the first batches of the data."""
    config = setting.config.video_vae if name == "video_vae" else setting.config.audio_vae
    networks = networks_on(setting.mesh, setting.release, config.dtype)
    moments = vae.video_moments if name == "video_vae" else vae.audio_moments
    measure = jax.jit(functools.partial(moments, networks), out_shardings=replicated(setting.mesh))
    abstract, batches = stage.program.arguments["batch"], stage.batches()
    pick: Any = lambda batch: place({key: batch[key] for key in abstract}, abstract)
    with jax.set_mesh(setting.mesh):
        hosts = (pick(batches.at(i)) for i in range(config.statistics_batches))
        return vae.latent_statistics(lambda batch: measure(weights, batch), hosts)
