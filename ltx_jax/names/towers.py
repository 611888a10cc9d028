"""Tensors of a published text encoder's file that nothing here reads: its towers for pictures and sound.

They are listed, and copied when a file is converted (spec gemma.md section 7).
"""

from ltx_jax.models.text.config import Gemma3Config, Gemma4Config, TextConfig

Shapes = dict[str, tuple[int, ...]]

_VISION, _MLP, _LAYERS = 1152, 4304, 27
_LAYER: Shapes = {
    **{f"{norm}.{leaf}": (_VISION,) for norm in ("layer_norm1", "layer_norm2") for leaf in ("weight", "bias")},
    **{f"self_attn.{part}_proj.weight": (_VISION, _VISION) for part in ("q", "k", "v", "out")},
    **{f"self_attn.{part}_proj.bias": (_VISION,) for part in ("q", "k", "v", "out")},
    "mlp.fc1.weight": (_MLP, _VISION), "mlp.fc1.bias": (_MLP,),
    "mlp.fc2.weight": (_VISION, _MLP), "mlp.fc2.bias": (_VISION,),
}  # fmt: skip
_TOWER = "vision_tower.vision_model"
_GEMMA3: Shapes = {
    f"{_TOWER}.embeddings.patch_embedding.weight": (_VISION, 3, 14, 14),
    f"{_TOWER}.embeddings.patch_embedding.bias": (_VISION,),
    f"{_TOWER}.embeddings.position_embedding.weight": (4096, _VISION),
    **{f"{_TOWER}.encoder.layers.{i}.{name}": shape for i in range(_LAYERS) for name, shape in _LAYER.items()},
    f"{_TOWER}.post_layernorm.weight": (_VISION,),
    f"{_TOWER}.post_layernorm.bias": (_VISION,),
    "multi_modal_projector.mm_input_projection_weight": (_VISION, 3840),
    "multi_modal_projector.mm_soft_emb_norm.weight": (_VISION,),
}
_PATCH = 6912
_GEMMA4: Shapes = {
    "vision_model.pos_embedding": (1120, 2, 3840),
    **{f"vision_model.patch_ln1.{leaf}": (_PATCH,) for leaf in ("weight", "bias")},
    "vision_model.patch_dense.weight": (3840, _PATCH),
    "vision_model.patch_dense.bias": (3840,),
    **{f"vision_model.{norm}.{leaf}": (3840,) for norm in ("patch_ln2", "pos_norm") for leaf in ("weight", "bias")},
    "multi_modal_projector.embedding_projection.weight": (3840, 3840),
    "audio_projector.embedding_projection.weight": (3840, 640),
}
_PUBLISHED = {(Gemma3Config, 3840): _GEMMA3, (Gemma4Config, 3840): _GEMMA4}
# What stands before the names of towers and projectors in the files that are known.
PREFIXES = (
    "vision_tower.", "vision_model.", "multi_modal_projector.", "audio_projector.", "model.vision_tower.",
    "model.multi_modal_projector.", "model.embed_vision.", "model.vision_embedder.", "model.embed_audio.",
)  # fmt: skip


def tower_shapes(config: TextConfig) -> Shapes:
    """The tensors beside the text decoder in the published file of this encoder; none of another size."""
    return _PUBLISHED.get((type(config), config.hidden_size), {})
