"""Official names of the transformer (spec transformer.md section 2.2), without the prefix `model.diffusion_model.`."""

from ltx_jax.checkpoints.names import Name, linear

Path = tuple[str, ...]


def attention_names(official: str, path: Path, gated: bool, layers: int | None = None) -> list[Name]:
    """Names of an `Attention`: `official` is its official name, `path` its place in our tree."""
    names = [
        Name(f"{official}.q_norm.weight", (*path, "q_norm"), None, layers),
        Name(f"{official}.k_norm.weight", (*path, "k_norm"), None, layers),
        *linear(f"{official}.to_out.0", (*path, "to_out"), True, layers),
    ]
    for part in ("to_q", "to_k", "to_v", *["to_gate_logits"] * gated):
        names += linear(f"{official}.{part}", (*path, part), True, layers)
    return names


def feed_forward_names(official: str, path: Path, bias: bool, layers: int | None = None) -> list[Name]:
    """Names of a `FeedForward`: `official` is its official name, `path` its place in our tree."""
    return [
        *linear(f"{official}.net.0.proj", (*path, "proj"), bias, layers),
        *linear(f"{official}.net.2", (*path, "out"), bias, layers),
    ]
