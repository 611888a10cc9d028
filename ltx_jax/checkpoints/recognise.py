"""What a file holds, told by the names in its header: never by its own name."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from ltx_jax.checkpoints.safetensors import Tensors
from ltx_jax.checkpoints.views import Renamed
from ltx_jax.names.connectors import FEATURES_PREFIX
from ltx_jax.names.diffusers import official_names
from ltx_jax.names.dit import TRANSFORMER_PREFIX
from ltx_jax.parts import DURATION_PREFIX

FEATURES = "features"  # of the connectors' part; they lie apart where a release is split

# How the names of a part begin; a group is the prefix, where it is not all of it.
_BEGINNINGS = {
    "text": r"(language_model\.model\.|model\.language_model\.|model\.)(embed_tokens|layers|norm)\.",
    "transformer": r"(model\.diffusion_model\.)(?!\w*embeddings_connector)",
    "connectors": r"(model\.diffusion_model\.)\w*embeddings_connector\.",
    FEATURES: r"(text_embedding_projection\.)",
    "video_encoder": r"(vae\.encoder\.)",
    "video_decoder": r"(vae\.decoder\.)",
    "video_statistics": r"(vae\.per_channel_statistics\.)",
    "audio_encoder": r"(audio_vae\.encoder\.)",
    "audio_decoder": r"(audio_vae\.decoder\.)",
    "audio_statistics": r"(audio_vae\.per_channel_statistics\.)",
    "vocoder": r"(vocoder\.)",
    "duration_head": r"(duration_head\.)",
}
_BEGINNING = re.compile("|".join(f"(?P<{part}>{pattern})" for part, pattern in _BEGINNINGS.items()))
_SPLIT_VAE = ("encoder.", "decoder.", "per_channel_statistics.")
_KNOWN = (
    TRANSFORMER_PREFIX, FEATURES_PREFIX, DURATION_PREFIX, "vae.", "audio_vae.", "vocoder.", "model.",
    "language_model.", "vision_", "multi_modal_projector.", "audio_projector.",
)  # fmt: skip
_BARE = re.compile(  # first words of the transformer's and the connectors' tensors
    r"(diffusion_model\.|)((audio_|video_|prompt_|av_ca_|)*(patchify_proj|proj_out|adaln_single|\w*adaln_single"
    r"|caption_projection|scale_shift_table|embeddings_connector|keyframes_abs_pos_embedding)\b.*|transformer_blocks\..*)"
)
_LORA = re.compile(r"[._]lora_?(A|B|down|up)\b|\.(hada_|lokr_|dora_scale)|\.lora\.")


class Held(NamedTuple):
    """A part as files hold it: `tensors` under official names, behind `prefix`."""

    tensors: Tensors
    prefix: str


def normalised(tensors: Tensors) -> Tensors:
    """The tensors under the names of an official file of all parts, whichever way they are spelled.

    Prefixes that split files and repacks leave out are put back, names of diffusers are turned.
    """
    turned = official_names(tensors)
    if turned is not None:
        table = {name: tuple((old, None) for old in theirs) for name, theirs in turned.items()}
    else:
        table = {_official(name, tensors): ((name, None),) for name in tensors}
    if all(pieces == ((name, None),) for name, pieces in table.items()) and len(table) == len(tensors):
        return tensors
    return Renamed(tensors, table)


def _official(name: str, tensors: Tensors) -> str:
    if name.startswith(_SPLIT_VAE):
        return f"vae.{name}"
    if not name.startswith(_KNOWN) and "initial_conv.weight" not in tensors and (found := _BARE.fullmatch(name)):
        return TRANSFORMER_PREFIX + found[2]
    return name


def held_parts(tensors: Tensors) -> dict[str, Held]:
    """The parts in `tensors` (normalised), by name; features apart from the connectors."""
    found: dict[str, Held] = {}
    if is_lora(tensors):
        return found
    for name in tensors:
        if (match := _BEGINNING.match(name)) is not None and (part := str(match.lastgroup)) not in found:
            found[part] = Held(tensors, match[match.re.groupindex[part] + 1])
    if "initial_conv.weight" in tensors and "final_conv.weight" in tensors:
        shape = tensors.shape("upsampler.0.weight") if "upsampler.0.weight" in tensors else ()
        found["temporal_upsampler" if len(shape) == 5 else "spatial_upsampler"] = Held(tensors, "")
    return found


def part_of(name: str) -> str | None:
    """The part of a tensor by its official name; None where no part's names begin so (as an upsampler's)."""
    match = _BEGINNING.match(name)
    return None if match is None else match.lastgroup


def is_lora(tensors: Mapping[str, object]) -> bool:
    """Whether adapters are what the tensors are."""
    return any(_LORA.search(name) for name in tensors)


_WORDS = {
    "text": "a Gemma text encoder", "transformer": "the transformer", "connectors": "the text connectors",
    FEATURES: "the projections of text features", "video_encoder": "a video VAE", "video_decoder": "a video VAE",
    "audio_encoder": "an audio VAE", "audio_decoder": "an audio VAE", "vocoder": "a vocoder",
    "duration_head": "a duration head", "spatial_upsampler": "a spatial latent upsampler",
    "temporal_upsampler": "a temporal latent upsampler",
}  # fmt: skip


def described(tensors: Tensors) -> str:
    """What a file holds, in words for a message."""
    if is_lora(tensors):
        return "a LoRA"
    words = dict.fromkeys(_WORDS[part] for part in held_parts(normalised(tensors)) if part in _WORDS)
    *first, last = words or ["nothing that is known"]
    return f"{', '.join(first)} and {last}" if first else last
