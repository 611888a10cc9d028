"""The declaration of a model from its files: their metadata, else the release whose tensors they have."""

from collections.abc import Mapping
from typing import Any

from ltx_jax.checkpoints.catalog import Catalog
from ltx_jax.checkpoints.recognise import FEATURES, Held
from ltx_jax.checkpoints.tables import part_shapes
from ltx_jax.config import from_mapping
from ltx_jax.errors import UserError
from ltx_jax.models.text.config import TextConfig, text_config
from ltx_jax.models.text.connectors_config import TextConnectorsConfig
from ltx_jax.models.text.duration import DurationConfig
from ltx_jax.models.upsampler import UpsamplerConfig
from ltx_jax.parts import OFFICIAL, PARTS, UPSAMPLERS
from ltx_jax.releases import COMPANIONS, RELEASES, Release, SamplingDefaults, release

_OF_FIELD = {"transformer": "transformer", "connectors": "connectors", "video_vae": "video_decoder",
             "audio_vae": "audio_decoder", "vocoder": "vocoder"}  # fmt: skip

# Sampling defaults of files that our own earlier versions wrote, which did not know these settings.
_UNSAID = {"stg": 0.0, "stg_blocks": None, "modality": 1.0}


def read_release(catalog: Catalog, text: Mapping[str, Any] | None) -> Release:
    """The declaration of all parts in `catalog`. text: the text encoder's config.json. Raises UserError."""
    main = catalog.parts["transformer"].tensors
    own = main.json("ltx_jax") if isinstance(main.json("ltx_jax"), dict) else {}
    encoder = text_config(text) if text is not None else inferred("text", catalog)
    configs: dict[str, Any] = {"text": encoder}
    for field, (block, kind) in OFFICIAL.items():
        configs[field] = _config(field, block, kind, catalog, encoder)
    for name in UPSAMPLERS:
        if (held := catalog.parts.get(name)) is not None:
            configs[name] = _upsampler(held)
    if (held := catalog.parts.get("duration_head")) is not None:
        blocks = held.tensors.json("config")
        configs["duration_head"] = DurationConfig.from_official(blocks if isinstance(blocks, dict) else {})
    published = _published(configs, main.metadata.get("model_version"))
    return Release(
        name=own.get("name", main.path.stem),
        version=main.metadata.get("model_version", published.version if published else "2.0.0"),
        text_length=own.get("text_length", 1024),
        process=own.get("process", "flow"),
        sampling=from_mapping(SamplingDefaults, {**_UNSAID, **own["sampling"]}, "metadata.ltx_jax.sampling")
        if "sampling" in own
        else (published.sampling if published else SamplingDefaults()),
        **configs,
    )


def block_of(held: Held, block: str) -> Mapping[str, Any] | None:
    """The block of the metadata `config` of the file that holds a part; None where there is none."""
    config = held.tensors.json("config")
    found = config.get(block) if isinstance(config, dict) else None
    return found if isinstance(found, dict) else None


def _config(field: str, block: str, kind: Any, catalog: Catalog, text: TextConfig) -> Any:
    held = catalog.parts[_OF_FIELD[field]]
    found = block_of(held, block)
    if found is None:
        return inferred(field, catalog)
    more = {"num_hidden_states": text.num_hidden_layers + 1} if kind is TextConnectorsConfig else {}
    try:
        return kind.from_official(found, **more)
    except UserError as error:
        raise UserError(f"The metadata 'config' of '{held.tensors.path}' is not understood: {error}") from None


def _upsampler(held: Held) -> UpsamplerConfig:
    config = held.tensors.json("config")
    if isinstance(config, dict) and "_class_name" in config:
        try:
            return UpsamplerConfig.from_official(config)
        except UserError as error:
            raise UserError(f"'{held.tensors.path}' is no file of a latent upsampler: {error}") from None
    shapes = {name: held.tensors.shape(name) for name in held.tensors}
    for known in (c for choices in COMPANIONS.values() for companions in choices for c in companions.values()):
        if isinstance(known, UpsamplerConfig) and _equal_upsampler(known, shapes):
            return known
    raise UserError(f"'{held.tensors.path}' has no metadata 'config', and is no upsampler that is published.")


def _equal_upsampler(known: UpsamplerConfig, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    conv = "upsampler.conv.weight" if known.rational else "upsampler.0.weight"
    width = known.mid_channels
    expected = (width * known.stride[0] * known.stride[1] * known.stride[2], width)
    return shapes.get(conv, ())[:2] == expected and len(shapes[conv]) == (5 if known.temporal_upsample else 4)


def inferred(field: str, catalog: Catalog) -> Any:
    """The configuration of the published release whose tensors the parts of `field` have."""
    for name in COMPANIONS:
        known = release(name)
        config = getattr(known, field)
        rows = [part for part in PARTS if part.config == field and isinstance(config, part.kind) and part.width is None]
        if all(_has(catalog, part.name, part_shapes(known, part.name)) for part in rows):
            return config
    held = catalog.parts["text" if field == "text" else _OF_FIELD[field]]
    what = "config.json" if field == "text" else "metadata 'config'"
    raise UserError(
        f"There is no {what} with '{held.tensors.path}', and its {field} has the tensors of no published release: take "
        "a file with its metadata."
    )


def _has(catalog: Catalog, part: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    helds = [catalog.parts[part]] + ([catalog.parts[FEATURES]] if part == "connectors" else [])
    prefix = "" if part == "connectors" else helds[0].prefix
    return all(
        any(prefix + name in h.tensors and h.tensors.shape(prefix + name) == shape for h in helds)
        for name, shape in shapes.items()
    )


def _published(configs: Mapping[str, Any], version: str | None) -> Release | None:
    """The release that the transformer is of, by its version or its configuration."""
    for name in COMPANIONS:
        known = RELEASES[name]()
        if (known.version.split(".")[:2] == version.split(".")[:2]) if version else (
            known.transformer == configs["transformer"]
        ):  # fmt: skip
            return known
    return None
