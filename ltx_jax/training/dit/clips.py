"""Raw clips as the transformer reads them: prepared once below the workdir, with what modes and text need."""

import dataclasses
import zlib

from ltx_jax.bundle import Bundle
from ltx_jax.data.buckets import Bucket
from ltx_jax.data.config import DataConfig
from ltx_jax.data.encoded.mixture import Mixture
from ltx_jax.data.encoded.prepared import PreparedClips
from ltx_jax.data.preparation.encode import ClipEncoder, model_identity
from ltx_jax.data.preparation.source import BATCH, SourceClips, prepare_source
from ltx_jax.data.raw.item import Source
from ltx_jax.data.raw.references import ReferenceSource
from ltx_jax.data.raw.source import open_source
from ltx_jax.errors import require
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.multihost import barrier, first_decides, local_mesh
from ltx_jax.streams import MODALITIES
from ltx_jax.training.config import ReferenceConfig
from ltx_jax.training.dit.inputs import has_keyframes, has_reference
from ltx_jax.training.record import base_record
from ltx_jax.training.setting import Params, Setting

FOLDER = "clips"  # below the workdir


def shrunk(data: DataConfig, by: int) -> DataConfig:
    """The same clips with height and width divided. Raises UserError where they cannot be."""
    require(
        data.height % by == 0 and data.width % by == 0,
        f"Clips of {data.width} x {data.height} cannot be {by} times smaller; see training.dit.shrink.",
    )
    return dataclasses.replace(data, height=data.height // by, width=data.width // by)


def prepared_source(setting: Setting, source: Source, params: Params) -> Mixture:
    """The first `training.dit.clips` clips of `source`, in every size of `training.dit.shrink`.

    They are encoded in float32 by the networks of `params` (by part), with the references and stills that a mode asks
    for, and features of the captions where the text encoder stays frozen. Of several processes the first one encodes,
    into a folder that all see. Raises UserError as `prepare_source`.
    """
    config, folder = setting.config.dit, setting.workdir / FOLDER
    sizes = [_clips(setting, source, by) for by in config.shrink]
    bundle = Bundle(setting.release, params, setting.tokenizer)

    def encoder() -> ClipEncoder:
        mesh = local_mesh(setting.mesh, spread=True)
        return ClipEncoder(bundle, BATCH, "float32", mesh, stored="float32", with_text=not config.train_text)

    def prepare() -> None:
        text = None if config.train_text else _text_identity(params, setting.tokenizer)
        prepare_source(sizes, folder, encoder, model_identity(bundle), text)

    first_decides(prepare)
    barrier("clips are encoded")
    return Mixture([PreparedClips(folder)], [1.0])


def _clips(setting: Setting, source: Source, by: int) -> SourceClips:
    """The clips of one size; source: of the full size."""
    config, data = setting.config.dit, shrunk(setting.data, by)
    small = config.reference or ReferenceConfig()
    source = source if by == 1 else open_source(data, setting.workdir)
    referred = any(has_reference(config, modality) for modality in MODALITIES)
    references = ReferenceSource(source, small.downscale, small.temporal) if referred else None
    bucket = Bucket(data.height, data.width, data.frames, data.fps)
    stills = config.keyframes if has_keyframes(config) else 0
    return SourceClips(source, config.clips, bucket, data.sample_rate, references, stills)


def _text_identity(params: Params, tokenizer: Tokenizer | None) -> str:
    """What tells text encoders apart: the tokenizer, and of the weights the connectors, which are trained with them."""
    return " ".join([tokenizer_number(tokenizer), *base_record(params["connectors"]).values()])


def tokenizer_number(tokenizer: Tokenizer | None) -> str:
    """A number for a tokenizer's vocabulary and rules."""
    return "" if tokenizer is None else f"{zlib.crc32(tokenizer.to_json().encode()):08x}"
