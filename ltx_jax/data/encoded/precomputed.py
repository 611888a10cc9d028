"""The published trainer's precomputed data set, read as it is (spec training.md 7.8, 8).

A folder, or its `.precomputed`, with one `.pt` per sample and kind at the same relative path: latents, conditions
(text features), and where they exist audio_latents, video_masks, audio_masks, reference_latents,
reference_audio_latents.

Letters: B batch, T video tokens, A audio tokens, C channels, F/H/W latent frames/height/width, E width of features.
"""

import hashlib
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ltx_jax.data.buckets import Bucket, Shape
from ltx_jax.data.encoded.prepared import Item
from ltx_jax.data.encoded.torch_file import read_torch_file
from ltx_jax.diffusion.geometry import audio_length
from ltx_jax.errors import UserError

LATENTS, CONDITIONS, AUDIO = "latents", "conditions", "audio_latents"
EXTRA = {  # folder -> the batch's name for it, see training/dit/objective.py
    "video_masks": "video_mask", "audio_masks": "audio_mask", "reference_latents": "video_reference",
    "reference_audio_latents": "audio_reference",
}  # fmt: skip
FPS = 24.0  # of latents that do not say it (spec training.md 3.1)


def precomputed_root(path: Path) -> Path | None:
    """The folder that directly holds the precomputed kinds, or None."""
    for root in (path / ".precomputed", path):
        if (root / LATENTS).is_dir() and (root / CONDITIONS).is_dir():
            return root
    return None


class PrecomputedClips:
    """Samples that every folder has, by bucket; a sample without audio has silence.

    scale: pixels per latent cell (time, height, width). audio_width: numbers of an audio token.

    Raises UserError when there is no complete sample, or a file cannot be read.
    """

    model: dict[str, str] | None = None  # the files do not say what made them
    captions = False

    def __init__(self, root: Path, scale: Shape, audio_width: int, progress: bool = True):
        self._root, self._width = root, audio_width
        self._audio = (root / AUDIO).is_dir()
        self._extra = [folder for folder in EXTRA if (root / folder).is_dir()]
        files = sorted((root / LATENTS).rglob("*.pt"))
        names = [f.relative_to(root / LATENTS) for f in files]
        whole = [n for n in names if all(self._path(k, n).is_file() for k in (CONDITIONS, *self._extra))]
        if len(whole) < len(names):
            print(f"{len(names) - len(whole)} of {len(names)} samples in '{root}' are not complete", file=sys.stderr)
        if not whole:
            raise UserError(f"There is no complete sample in '{root}': latents and conditions need files of one name.")
        self._names: dict[Bucket, list[Path]] = defaultdict(list)
        digest = hashlib.sha256()
        for name in tqdm(whole, desc="reading sizes", unit="file", disable=not progress or len(whole) < 1000):
            bucket = self._bucket(name, scale)
            self._names[bucket].append(name)
            digest.update(f"{name}|{bucket.name}|{self._path(LATENTS, name).stat().st_size}\n".encode())
        self.buckets = {bucket: len(names) for bucket, names in self._names.items()}
        self.fingerprint = digest.hexdigest()[:16]

    def item(self, bucket: Bucket, number: int) -> Item:
        """Sample `number` of `bucket`: video (T, C), audio (A, C'), has_audio, features (n, E), masks, references."""
        name = self._names[bucket][number]
        item: Item = {"video": video_tokens(self._read(LATENTS, name)["latents"]), "caption": ""}
        item |= text_features(self._read(CONDITIONS, name))
        length = audio_length(bucket.frames, bucket.fps)
        item["has_audio"] = self._audio and self._path(AUDIO, name).is_file()
        item["audio"] = np.zeros((length, self._width), np.float32)
        if item["has_audio"]:
            tokens = audio_tokens(self._read(AUDIO, name)["latents"])[:length]
            if tokens.shape[1] != self._width:
                raise UserError(
                    f"'{self._path(AUDIO, name)}' has tokens of {tokens.shape[1]} numbers, not {self._width}."
                )
            item["audio"][: len(tokens)] = tokens
        for folder in self._extra:
            item[EXTRA[folder]] = self._beside(folder, name, length)
        return item

    def empty(self) -> None:
        """The published data set does not store the empty caption: its trainer never drops captions."""

    def _beside(self, folder: str, name: Path, audio: int) -> np.ndarray:
        sample = self._read(folder, name)
        if "masks" in folder:
            mask = sample["mask"].astype(np.float32).reshape(-1)  # (T,) in token order, or (A,)
            return mask if folder == "video_masks" else np.pad(mask[:audio], (0, max(0, audio - len(mask))))
        return video_tokens(sample["latents"]) if folder == "reference_latents" else audio_tokens(sample["latents"])

    def _bucket(self, name: Path, scale: Shape) -> Bucket:
        sample = self._read(LATENTS, name, values=False)
        frames, height, width = (int(sample[key]) for key in ("num_frames", "height", "width"))
        fps = round(float(sample.get("fps") or FPS), 3)
        return Bucket(height * scale[1], width * scale[2], (frames - 1) * scale[0] + 1, fps)

    def _path(self, folder: str, name: Path) -> Path:
        if folder == CONDITIONS and name.name.startswith("latent_"):  # the layout of older versions
            legacy = self._root / folder / name.with_name("condition_" + name.name.removeprefix("latent_"))
            if legacy.is_file():
                return legacy
        return self._root / folder / name

    def _read(self, folder: str, name: Path, values: bool = True) -> dict[str, Any]:
        sample = read_torch_file(self._path(folder, name), values=values)
        wanted = {LATENTS: ("latents", "num_frames", "height", "width"), CONDITIONS: ("prompt_attention_mask",)}
        missing = [key for key in wanted.get(folder, ()) if not isinstance(sample, dict) or key not in sample]
        if missing:
            raise UserError(f"'{self._path(folder, name)}' has no '{missing[0]}'; it is no precomputed sample.")
        return sample


def video_tokens(latents: np.ndarray) -> np.ndarray:
    """(C, F, H, W), or in the older layout (F*H*W, C), -> float32 (T, C)."""
    tokens = latents if latents.ndim == 2 else latents.reshape(latents.shape[0], -1).T
    return np.ascontiguousarray(tokens, np.float32)


def audio_tokens(latents: np.ndarray) -> np.ndarray:
    """(Z, A, f) -> float32 (A, Z * f), channel-major."""
    return latents.transpose(1, 0, 2).reshape(latents.shape[1], -1).astype(np.float32)


def text_features(sample: dict[str, Any]) -> Item:
    """Features (n, E) of the real tokens; where there are none for sound, the video's serve both."""
    real = np.asarray(sample["prompt_attention_mask"]).reshape(-1) != 0
    video = sample.get("video_prompt_embeds", sample.get("prompt_embeds"))
    if video is None:
        raise UserError("A file in 'conditions' has no 'video_prompt_embeds'; prepare the captions again.")
    audio = sample.get("audio_prompt_embeds", video)
    return {"video_features": video[real].astype(np.float32), "audio_features": audio[real].astype(np.float32)}
