"""What fewer bytes cost: the velocities of the toy's transformer beside those of float32, and its bytes.

    python benchmarks/quantization.py

Clips of the toy world are encoded and noised to three levels; the whole way from their captions is in the type of the
row (text encoder, connectors, transformer). The error is the root mean square of the difference over that of the
float32 velocity, of video and of audio.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax import codec
from ltx_jax.bundle import Networks, networks_on, place_parts
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.data.raw.toyworld import render
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.models.quantized import KINDS
from ltx_jax.models.storage import QUANTIZED, Storage
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.pipelines.stages import velocity_predictor
from ltx_jax.pipelines.states import empty_audio, empty_video, make_state

CLIPS, LEVELS = 16, (0.9, 0.5, 0.2)
ROWS = {"float32": ("float32", None), "bfloat16": ("bfloat16", None), **{kind: ("bfloat16", kind) for kind in KINDS}}


def main() -> None:
    """Print the table."""
    bundle, mesh = load_bundle("toy"), make_mesh(MeshConfig(), jax.devices()[:1])
    clips = [render(7, i) for i in range(CLIPS)]
    assert bundle.tokenizer is not None
    tokens = bundle.tokenizer([clip.caption for clip in clips])
    with jax.set_mesh(mesh):
        state = noised(networks_on(mesh, bundle.release), bundle.params, clips)
        expected = None
        print(f"{'weights':<14}{'bytes':>10}{'video':>10}{'audio':>10}   relative error of the velocity")
        for name, (dtype, kind) in ROWS.items():
            networks = networks_on(mesh, bundle.release, dtype, dtype, Storage(kind))
            params = place_parts(networks, load_bundle("toy", dtype=jnp.dtype(dtype)).params, QUANTIZED, mesh)
            found = jax.jit(functools.partial(velocities, networks))(params, *tokens, state)
            expected = found if expected is None else expected
            size = sum(x.nbytes for x in jax.tree.leaves(params["transformer"]))
            errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True)]
            print(f"{name:<14}{size / 1e6:>7.2f} MB" + "".join(f"{error:>10.3%}" for error in errors))


def noised(networks: Networks, params, clips) -> tuple:
    """Sampler's state of the clips, and the noised latents (levels, B, T, C) of video and audio."""
    video, sound = (np.stack([getattr(clip, name) for clip in clips]) for name in ("video", "audio"))
    shape = VideoShape(*video.shape[1:4], networks.release.sampling.fps)
    state = make_state(
        networks.release, empty_video(networks.release, shape, CLIPS), empty_audio(networks.release, shape, CLIPS)
    )
    assert state.video is not None and state.audio is not None
    length = state.audio.stream.latent.shape[1]
    clean = (
        jax.jit(functools.partial(codec.video_tokens, networks))(params_of(params, codec.VIDEO_ENCODER), video),
        jax.jit(functools.partial(codec.audio_tokens, networks, length=length))(
            params_of(params, codec.AUDIO_ENCODER), sound
        ),
    )
    draw = lambda i, x: jax.random.normal(jax.random.key(i), x.shape)
    return state, tuple(
        jnp.stack([(1 - s) * x + s * draw(i, x) for s in LEVELS]) for i, x in enumerate(clean)
    )  # fmt: skip


def params_of(params, parts):
    """Some parts of a model."""
    return {part: params[part] for part in parts}


def velocities(networks: Networks, params, ids, mask, given) -> tuple:
    """Velocities (levels, B, T, C) float32 of video and audio."""
    state, latents = given
    contexts = codec.text_contexts(networks, params, ids, mask)
    predict = velocity_predictor(networks, params, {"positive": contexts, "negative": contexts})
    found = []
    for level, video, audio in zip(LEVELS, *latents, strict=True):
        streams = [
            track.at(jnp.float32(level)).replace(latent=latent)
            for track, latent in ((state.video, video), (state.audio, audio))
        ]
        found.append(predict(*streams, ("cond",), None))
    return tuple(jnp.stack(each) for each in zip(*found, strict=True))


if __name__ == "__main__":
    main()
