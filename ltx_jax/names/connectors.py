"""Official names of the feature extractor and the text connectors (spec transformer.md section 2.3)."""

import dataclasses
from collections.abc import Iterable

from ltx_jax.models.text.connectors_config import ConnectorConfig, TextConnectorsConfig
from ltx_jax.names import Name, linear
from ltx_jax.names.dit import attention_names, feed_forward_names

FEATURES_PREFIX = "text_embedding_projection."
CONNECTOR_PREFIX = "model.diffusion_model.{stream}_embeddings_connector."


def feature_names(version: str) -> list[Name]:
    """Names of feature extractor "v1" or "v2", without FEATURES_PREFIX."""
    if version == "v1":
        return linear("aggregate_embed", ("aggregate_embed",), False)
    parts = ("video_aggregate_embed", "audio_aggregate_embed")
    return [name for part in parts for name in linear(part, (part,))]


def connector_names(config: ConnectorConfig) -> list[Name]:
    """Names of one connector, without its CONNECTOR_PREFIX."""
    block = "transformer_1d_blocks.{i}"
    return [
        *[Name("learnable_registers", ("learnable_registers",))] * (config.registers > 0),
        *attention_names(f"{block}.attn1", ("layers", "attn1"), config.gated, config.layers),
        *feed_forward_names(f"{block}.ff", ("layers", "ff"), config.ff_bias, config.layers),
    ]


def text_connectors_names(config: TextConnectorsConfig) -> list[Name]:
    """Names of `TextConnectors(config)`, complete: the parts lie under different official prefixes."""
    return [
        *_within(FEATURES_PREFIX, "features", feature_names(config.feature_extractor)),
        *_within(CONNECTOR_PREFIX.format(stream="video"), "video_connector", connector_names(config.video)),
        *_within(CONNECTOR_PREFIX.format(stream="audio"), "audio_connector", connector_names(config.audio)),
    ]


def _within(prefix: str, module: str, names: Iterable[Name]) -> list[Name]:
    """`names` of a submodule as names of the whole."""
    return [dataclasses.replace(n, official=prefix + n.official, path=(module, *n.path)) for n in names]
