"""Raw clips as the transformer reads them: prepared once below the workdir, with what modes and text need."""

import zlib

from ltx_jax.bundle import Bundle
from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.mixture import Mixture
from ltx_jax.data.encoded.prepared import PreparedClips
from ltx_jax.data.preparation.encode import ClipEncoder, model_identity
from ltx_jax.data.preparation.source import BATCH, SourceClips, prepare_source
from ltx_jax.data.raw.item import Source
from ltx_jax.data.raw.references import ReferenceSource
from ltx_jax.models.text.tokenizer import Tokenizer
from ltx_jax.parallel.multihost import barrier, first_decides, local_mesh
from ltx_jax.training.config import ReferenceConfig
from ltx_jax.training.dit.inputs import MODALITIES, has_reference
from ltx_jax.training.record import base_record
from ltx_jax.training.setting import Params, Setting

FOLDER = "clips"  # below the workdir


def prepared_source(setting: Setting, source: Source, params: Params) -> Mixture:
    """The first `training.dit.clips` clips of `source`, encoded in float32 by the networks of `params`, by part.

    With the references that a mode asks for, and features of the captions where the text encoder stays frozen. Of
    several processes the first one encodes, into a folder that all see. Raises UserError as `prepare_source`.
    """
    config, data, release = setting.config.dit, setting.data, setting.release
    folder, small = setting.workdir / FOLDER, config.reference or ReferenceConfig()
    referred = any(has_reference(config, modality) for modality in MODALITIES)
    references = ReferenceSource(source, small.downscale, small.temporal) if referred else None
    bucket = Bucket(data.height, data.width, data.frames, data.fps)
    clips = SourceClips(source, config.clips, bucket, data.sample_rate, references)
    bundle = Bundle(release, params, setting.tokenizer)

    def encoder() -> ClipEncoder:
        mesh = local_mesh(setting.mesh, spread=True)
        return ClipEncoder(bundle, BATCH, "float32", mesh, stored="float32", with_text=not config.train_text)

    def prepare() -> None:
        text = None if config.train_text else _text_identity(params, setting.tokenizer)
        prepare_source(clips, folder, encoder, model_identity(bundle), text)

    first_decides(prepare)
    barrier("clips are encoded")
    return Mixture([PreparedClips(folder)], [1.0])


def _text_identity(params: Params, tokenizer: Tokenizer | None) -> str:
    """What tells text encoders apart: the tokenizer, and of the weights the connectors, which are trained with them."""
    return " ".join([tokenizer_number(tokenizer), *base_record(params["connectors"]).values()])


def tokenizer_number(tokenizer: Tokenizer | None) -> str:
    """A number for a tokenizer's vocabulary and rules."""
    return "" if tokenizer is None else f"{zlib.crc32(tokenizer.to_json().encode()):08x}"
