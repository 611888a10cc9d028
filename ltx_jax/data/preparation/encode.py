"""Clips to records: latents of both streams and text features, in batches of one shape.

Letters: B batch, T video tokens, A audio tokens, S text tokens, C channels, E width of text features.
"""

import dataclasses
import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import Bundle, networks_on, place_parts
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.codec import (
    AUDIO_ENCODER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    audio_tokens,
    text_features,
    to_unit,
    video_tokens,
)
from ltx_jax.config import to_mapping
from ltx_jax.data.encoded.records import pack
from ltx_jax.data.preparation.clips import Clip
from ltx_jax.diffusion.geometry import audio_length
from ltx_jax.errors import UserError, require
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.program import batch_like, place
from ltx_jax.parts import config_names
from ltx_jax.releases import Release

PARTS = (*TEXT_ENCODER, *VIDEO_ENCODER, *AUDIO_ENCODER)
CONFIGS = (*config_names(*PARTS), "text_length")  # what records depend on

Encoded = list[bytes | str]  # per clip its record, or why there is none


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """A `ClipEncoder` by its files, to be opened where it works: here, or in a Ray actor.

    mesh: of the devices there; its fsdp and tensor axes spread the weights, of which the text encoder's are many.
    """

    checkpoint: str
    text_encoder: str | None = None
    batch: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        require(self.batch >= 1, f"At least one clip must be encoded at a time, not {self.batch}.")

    def bundle(self) -> Bundle:
        """The model; its weights are read when they are used. Raises UserError as `load_bundle`."""
        dtype = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.float32
        return load_bundle(self.checkpoint, self.text_encoder, dtype)

    def open(self, mesh: Mesh | None = None) -> "ClipEncoder":
        """The encoder, its weights on the devices of `mesh` (default: all of this process, as the spec says)."""
        return ClipEncoder(self.bundle(), self.batch, self.dtype, mesh or make_mesh(self.mesh, jax.local_devices()))


class ClipEncoder:
    """A model's encoders on the devices. Each bucket is compiled once: batches are filled up to `batch` clips.

    dtype: of the networks' computation; the audio encoder is float32 (spec training.md 7.7). Video latents and text
    features are stored in bfloat16, audio latents in float32 (7.8).
    """

    def __init__(self, bundle: Bundle, batch: int = 4, dtype: str = "float32", mesh: Mesh | None = None):
        """Raises UserError when the bundle has no text encoder."""
        release = bundle.release
        if release.text is None or bundle.tokenizer is None:
            raise UserError(f"The text encoder of {release.name} is not supported yet.")
        self.batch = batch
        self._mesh = mesh or make_mesh(MeshConfig())
        self._rows = filled(batch, self._mesh)
        nets = networks_on(self._mesh, release, dtype)
        nets = nets.replaced(audio_encoder=networks_on(self._mesh, release)["audio_encoder"])
        self._tokenizer = bundle.tokenizer
        self._params = place_parts(nets, bundle.params, PARTS, self._mesh)
        self._video = jax.jit(lambda params, video: video_tokens(nets, params, to_unit(video)))
        self._audio = jax.jit(functools.partial(audio_tokens, nets), static_argnums=2)
        self._text = jax.jit(functools.partial(text_features, nets))

    def __call__(self, clips: Sequence[Clip], items: Sequence[dict[str, Any]]) -> list[bytes]:
        """A record of every clip, all of one bucket, at most `batch`; items: as `read_clip` gives them."""
        bucket = clips[0].bucket
        stack = lambda name: np.stack([item[name] for item in items])
        video = self._run(self._video, stack("video"))
        audio = self._run(self._audio, stack("audio"), static=(audio_length(bucket.frames, bucket.fps),))
        text = self.text([clip.caption for clip in clips])
        records = []
        for i, (clip, item) in enumerate(zip(clips, items, strict=True)):
            arrays = {"video": video[i].astype(ml_dtypes.bfloat16), "audio": audio[i].astype(np.float32), **text[i]}
            metadata = {
                "caption": clip.caption, "has_audio": str(int(item["has_audio"])), "file": clip.name,
                "start": f"{clip.start:g}",
            }  # fmt: skip
            records.append(pack(arrays, metadata))
        return records

    def text(self, captions: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """Features of the real tokens of every caption, at most `batch`: video_features (n, E), audio_features.

        The second is left out where the release makes the same for both streams.
        """
        ids, mask = self._tokenizer(captions)
        video, audio = self._run(self._text, ids, mask)
        shared = video.shape == audio.shape and np.array_equal(video, audio)
        streams = {"video_features": video} | ({} if shared else {"audio_features": audio})
        pick = lambda x, i: x[i][mask[i] != 0].astype(ml_dtypes.bfloat16)
        return [{name: pick(x, i) for name, x in streams.items()} for i in range(len(captions))]

    def empty(self) -> bytes:
        """The record of the empty caption, for training without a caption."""
        return pack(self.text([""])[0], {"caption": ""})

    def _run(self, function: Any, *arrays: np.ndarray, static: tuple[Any, ...] = ()) -> Any:
        """Call with the rows filled up by copies of its last row; returns host arrays without them."""
        count = len(arrays[0])
        full = [np.concatenate([x, np.repeat(x[-1:], self._rows - count, axis=0)]) for x in arrays]
        with jax.set_mesh(self._mesh):
            placed = [place(x, batch_like(x, self._mesh)) for x in full]
            result = function(self._params, *placed, *static)
        return jax.tree.map(lambda x: np.asarray(x)[:count], result)


def encode_readable(encoder: ClipEncoder, clips: Sequence[Clip], items: Sequence[dict[str, Any] | str]) -> Encoded:
    """Records of the clips that could be read, in their places; of the others the reason."""
    good = [i for i, item in enumerate(items) if not isinstance(item, str)]
    result: Encoded = [item if isinstance(item, str) else "" for item in items]
    records = encoder([clips[i] for i in good], [items[i] for i in good]) if good else []  # type: ignore[misc]
    for i, record in zip(good, records, strict=True):
        result[i] = record
    return result


def filled(batch: int, mesh: Mesh) -> int:
    """`batch` rounded up to what the mesh's batch axes divide."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-batch // shards) * shards


def model_identity(bundle: Bundle) -> dict[str, str]:
    """What tells two models' records apart, JSON-able."""
    return {"configuration": configuration_number(bundle.release), "latents": latents_number(bundle.params)}


def configuration_number(release: Release) -> str:
    """A number for the configuration of all parts that records depend on."""
    configs = json.dumps({name: to_mapping(getattr(release, name)) for name in CONFIGS}, sort_keys=True)
    return f"{zlib.crc32(configs.encode()):08x}"


def latents_number(params: Mapping[str, Any]) -> str:
    """A number for the autoencoders' weights, known by their smallest telling pieces: the latents' statistics."""
    value = 0
    for part in ("video_statistics", "audio_statistics"):
        for name in ("mean", "std"):
            # as the checkpoint stores them: rounding to bfloat16 must not make another model
            rounded = np.asarray(params[part][name]).astype(ml_dtypes.bfloat16)
            value = zlib.crc32(rounded.tobytes(), value)
    return f"{value:08x}"
