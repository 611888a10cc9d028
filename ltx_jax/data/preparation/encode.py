"""Clips to records: latents of both streams and text features, in batches of one shape.

Letters: B batch, T video tokens, A audio tokens, S text tokens, C channels, E width of text features.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from ltx_jax.bundle import Bundle, Networks, Placed, networks_on
from ltx_jax.checkpoints.load import load_bundle
from ltx_jax.codec import (
    AUDIO_ENCODER,
    TEXT_ENCODER,
    VIDEO_ENCODER,
    make_encode_audio_program,
    make_encode_video_program,
    make_text_features_program,
)
from ltx_jax.config import to_mapping
from ltx_jax.data.encoded.records import pack
from ltx_jax.data.preparation.clips import Clip
from ltx_jax.data.preparation.tiled import check_tile, encode_in_tiles
from ltx_jax.data.raw.item import Item
from ltx_jax.diffusion.geometry import VideoShape, audio_length, latent_shape, patchify_video, unpatchify_video
from ltx_jax.errors import require
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parts import config_names
from ltx_jax.releases import Release

PIXELS_AND_SOUND = (*VIDEO_ENCODER, *AUDIO_ENCODER)
PARTS = (*TEXT_ENCODER, *PIXELS_AND_SOUND)
Stored = Literal["bfloat16", "float32"]
CONFIGS = (*config_names(*PARTS), "text_length")  # what records depend on

Encoded = list[bytes | str]  # per clip its record, or why there is none


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """A `ClipEncoder` by its files, to be opened where it works: here, or in a Ray actor.

    mesh: of the devices there; its fsdp and tensor axes spread the weights, of which the text encoder's are many.
    stored: of video latents and text features. tile: see `ClipEncoder`.
    """

    checkpoint: str
    text_encoder: str | None = None
    batch: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: MeshConfig = MeshConfig()
    stored: Stored = "bfloat16"
    tile: int = 0

    def __post_init__(self):
        require(self.batch >= 1, f"At least one clip must be encoded at a time, not {self.batch}.")

    @property
    def record_settings(self) -> dict[str, Any]:
        """What records depend on beside the model, JSON-able; defaults are left out."""
        settings = {"stored": self.stored, "tile": self.tile}
        return {name: value for name, value in settings.items() if value != getattr(EncoderSpec, name)}

    def bundle(self) -> Bundle:
        """The model; its weights are read when they are used. Raises UserError as `load_bundle`."""
        dtype = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.float32
        return load_bundle(self.checkpoint, self.text_encoder, dtype)

    def open(self, mesh: Mesh | None = None) -> "ClipEncoder":
        """The encoder, its weights on the devices of `mesh` (default: all of this process, as the spec says)."""
        mesh = mesh or make_mesh(self.mesh, jax.local_devices())
        return ClipEncoder(self.bundle(), self.batch, self.dtype, mesh, stored=self.stored, tile=self.tile)


def encoder_networks(mesh: Mesh, release: Release, dtype: Any, param_dtype: Any = np.float32) -> Networks:
    """The networks that encode clips, computing in `dtype`; the audio encoder is float32 (spec training.md 7.7)."""
    audio = networks_on(mesh, release, np.float32, param_dtype)["audio_encoder"]
    return networks_on(mesh, release, dtype, param_dtype).replaced(audio_encoder=audio)


class ClipEncoder:
    """A model's encoders on the devices. Each bucket is compiled once: batches are filled up to `batch` clips.

    dtype: of the computation, see `encoder_networks`. stored: of video latents and text features (bfloat16 in spec
    training.md 7.8); audio latents are float32. tile: side in pixels of the tiles in which larger pictures are encoded,
    overlapping by a quarter (7.4: 512), so that memory does not grow with them; 0: whole. with_text: records hold
    features of their captions.
    """

    def __init__(
        self, bundle: Bundle, batch: int = 4, dtype: str = "float32", mesh: Mesh | None = None, *,
        stored: Stored = "bfloat16", tile: int = 0, with_text: bool = True,
    ):  # fmt: skip
        """Raises UserError for a tile that does not fit the model."""
        release = bundle.release
        self.batch, self.with_text = batch, with_text
        self._tile, self._factors = tile, release.video_vae.scale_factors
        check_tile(tile, tile // 4, self._factors)
        mesh = mesh or make_mesh(MeshConfig())
        self._rows = filled(batch, mesh)
        self._stored = np.dtype(ml_dtypes.bfloat16 if stored == "bfloat16" else np.float32)
        self._tokenizer = bundle.tokenizer
        self._placed = Placed(encoder_networks(mesh, release, dtype), bundle.params, mesh)
        self._placed.weights(PARTS if with_text else PIXELS_AND_SOUND)

    def __call__(
        self, clips: Sequence[Clip], items: Sequence[Item], references: Sequence[Item] | None = None,
        stills: Sequence[np.ndarray] | None = None,
    ) -> list[bytes]:  # fmt: skip
        """A record of every clip, all of one bucket, at most `batch`; items: as `read_clip` gives them.

        references: of the clips, where they have one (data/raw/references.py); their sound is as long as the clips'.
        stills: of every clip the frames (K,) int32 that are also encoded alone, as key frames.
        """
        length = audio_length(clips[0].bucket.frames, clips[0].bucket.fps)
        tokens = self._tokens(items, length)
        if references is not None:
            tokens |= {f"{name}_reference": x for name, x in self._tokens(references, length).items()}
        if stills is not None:
            tokens |= self._stills(items, np.stack(stills))
        text = self.text([clip.caption for clip in clips]) if self.with_text else [{}] * len(clips)
        records = []
        for i, (clip, item) in enumerate(zip(clips, items, strict=True)):
            metadata = {
                "caption": clip.caption, "has_audio": str(int(item["has_audio"])), "file": clip.name,
                "start": f"{clip.start:g}",
            }  # fmt: skip
            records.append(pack({name: x[i] for name, x in tokens.items()} | text[i], metadata))
        return records

    def _tokens(self, items: Sequence[Item], length: int) -> dict[str, np.ndarray]:
        """video (n, T, C) and audio (n, length, C') as they are stored."""
        video, audio = (self._full(np.stack([item[name] for item in items])) for name in ("video", "audio"))
        encode = self._placed.load(make_encode_audio_program, AUDIO_ENCODER, audio, length)
        sound = np.asarray(encode(audio))[: len(items)]
        return {"video": self._video(video)[: len(items)], "audio": sound.astype(np.float32)}

    def _stills(self, items: Sequence[Item], frames: np.ndarray) -> dict[str, np.ndarray]:
        """Tokens (n, K * H * W, C) of K stills each, one after the other, and their frames (n, K)."""
        pictures = np.stack([item["video"][own] for item, own in zip(items, frames, strict=True)])  # (n, K, h, w, 3)
        alone = [self._video(self._full(pictures[:, k : k + 1]))[: len(items)] for k in range(frames.shape[1])]
        return {"video_keyframes": np.concatenate(alone, axis=1), "keyframes": frames}

    def _video(self, video: np.ndarray) -> np.ndarray:
        """Tokens (B, T, C) of frames uint8 (B, F, h, w, 3), as they are stored."""
        latents = encode_in_tiles(self._latents, video, self._factors, self._tile, self._tile // 4)
        return patchify_video(latents).astype(self._stored)

    def _latents(self, video: np.ndarray) -> np.ndarray:
        """Normalised latents (B, F', H, W, C) of frames or of a tile of them, uint8 (B, F, h, w, 3)."""
        encode = self._placed.load(make_encode_video_program, VIDEO_ENCODER, video)
        return unpatchify_video(np.asarray(encode(video)), *latent_shape(VideoShape(*video.shape[1:4]), self._factors))

    def text(self, captions: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """Features of the real tokens of every caption, at most `batch`: video_features (n, E), audio_features.

        The second is left out where the release makes the same for both streams.
        """
        assert self._tokenizer is not None
        ids, mask = self._tokenizer(captions)
        encode = self._placed.load(make_text_features_program, TEXT_ENCODER, self._rows)
        video, audio = map(np.asarray, encode(self._full(ids), self._full(mask)))
        shared = video.shape == audio.shape and np.array_equal(video, audio)
        streams = {"video_features": video} | ({} if shared else {"audio_features": audio})
        pick = lambda x, i: x[i][mask[i] != 0].astype(self._stored)
        return [{name: pick(x, i) for name, x in streams.items()} for i in range(len(captions))]

    def empty(self) -> bytes:
        """The record of the empty caption, for training without a caption."""
        return pack(self.text([""])[0], {"caption": ""})

    def _full(self, rows: np.ndarray) -> np.ndarray:
        """`rows` filled up by copies of the last one to as many as the programs take."""
        return np.concatenate([rows, np.repeat(rows[-1:], self._rows - len(rows), axis=0)])


def encode_readable(encoder: ClipEncoder, clips: Sequence[Clip], items: Sequence[Item | str]) -> Encoded:
    """Records of the clips that could be read, in their places; of the others the reason."""
    good = [i for i, item in enumerate(items) if not isinstance(item, str)]
    result: Encoded = [item if isinstance(item, str) else "" for item in items]
    read: list[Item] = [item for item in items if not isinstance(item, str)]
    records = encoder([clips[i] for i in good], read) if good else []
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
