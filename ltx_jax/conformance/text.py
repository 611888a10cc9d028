"""Recorded cases of the text stack (spec gemma.md, transformer.md section 12)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.errors import require
from ltx_jax.models.text.config import Gemma4Config, text_config
from ltx_jax.models.text.connectors import Connector, TextConnectors, TextConnectorsConfig, context_mask
from ltx_jax.models.text.duration import DurationConfig, DurationHead, duration_frames
from ltx_jax.models.text.features import FeatureExtractorV1, FeatureExtractorV2
from ltx_jax.models.text.gemma3 import Gemma3
from ltx_jax.models.text.gemma4 import Gemma4
from ltx_jax.models.text.generation import Writing, advance, begin, clean, repeated, write
from ltx_jax.models.text.masks import visible_pairs
from ltx_jax.models.text.rope import inverse_frequencies, tables
from ltx_jax.models.text.tokenizer import SpecialTokens, Tokenizer
from ltx_jax.names import to_tree
from ltx_jax.names.connectors import connector_names, feature_names, text_connectors_names
from ltx_jax.names.duration import duration_names
from ltx_jax.names.gemma3 import gemma3_names
from ltx_jax.names.gemma4 import gemma4_names

Outputs = dict[str, np.ndarray]


def _apply(module: nn.Module, params: Any, *args: Any, method: str | None = None) -> Any:
    return jax.jit(lambda p, *a: module.apply({"params": p}, *a, method=method))(params, *args)


def _tokenize(case: Case) -> Outputs:
    c = case.config
    texts = [
        case.inputs[f"text_{i}"].tobytes().decode() for i in range(sum(n.startswith("text_") for n in case.inputs))
    ]
    special = SpecialTokens(c["bos_token"], c["eos_token"], c.get("pad_token"))
    ids, mask = Tokenizer(case.inputs["tokenizer_json"].tobytes(), c["max_length"], special)(texts)
    return {"input_ids": ids, "attention_mask": mask}


def _attention_mask(case: Case) -> Outputs:
    mask, types = (jnp.asarray(case.inputs[n]) for n in ("attention_mask", "token_type_ids"))
    window, blocks = case.config["sliding_window"], case.config["family"] == "gemma3"  # Gemma 4's stay causal globally
    pairs = {
        "full": visible_pairs(mask),
        "sliding": visible_pairs(mask, window),
        "full_image": visible_pairs(mask, None, types if blocks else None),
        "sliding_image": visible_pairs(mask, window, types),
    }
    real_queries = (mask != 0)[:, :, None]  # the recording sets the rows of padded queries to False
    return {name: np.asarray(p & real_queries) for name, p in pairs.items()}


def _rope(case: Case) -> Outputs:
    """Frequencies and tables of every family in the file; bases that a config leaves out are the published ones."""
    outputs = {}
    for family, c in case.config.items():
        full = inverse_frequencies(
            c.get("global_head_dim", c["head_dim"]), c.get("rope_theta", 1e6), c.get("factor", 1.0),
            c.get("partial_rotary_factor", 1.0),
        )  # fmt: skip
        sliding = inverse_frequencies(c["head_dim"], c.get("rope_local_base_freq", 1e4))
        for kind, frequencies in (("full", full), ("sliding", sliding)):
            outputs[f"{family}_{kind}_inv_freq"] = frequencies
            halves = np.stack(tables(case.inputs["positions"], frequencies))  # (2, S, K/2)
            outputs[f"{family}_{kind}_table"] = np.concatenate([halves, halves], axis=-1)
    return outputs


def _gemma(case: Case) -> tuple[Gemma3, Any]:
    """The decoder of a case and its parameters."""
    config = text_config(case.config["text_config"])
    make, names = (Gemma4, gemma4_names) if isinstance(config, Gemma4Config) else (Gemma3, gemma3_names)
    return make(config), to_tree(names(config), case.weights)  # type: ignore[arg-type]


def _gemma_forward(case: Case) -> Outputs:
    (model, params), mask = _gemma(case), case.inputs["attention_mask"]
    states = _apply(model, params, case.inputs["input_ids"], mask)
    logits = _apply(model, params, states[-1], method="logits")
    real = mask[..., None] != 0  # the recording zeroes padded positions
    return {"hidden_states": np.where(real, states, 0), "logits": np.where(real, logits, 0)}


def _generate(case: Case) -> Outputs:
    """The compiled loop chooses; the logits that it chose from are those of reading its tokens one by one."""
    (model, params), c = _gemma(case), case.config
    require(not c.get("do_sample"), "Recorded draws of a language model cannot be repeated: only greedy ones are.")
    stop = c["eos_token_id"]
    how = Writing(c["max_new_tokens"], stop=tuple(stop if isinstance(stop, list) else [stop]))
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    written, count = jax.jit(lambda p, ids, mask: write(model, p, ids, mask, how, jax.random.key(0)))(params, ids, mask)
    written = np.asarray(written)[:, : int(np.max(count))]
    page = jax.jit(lambda p, ids, mask: begin(model, p, ids, mask, written.shape[1]))(params, ids, mask)
    read = jax.jit(lambda p, page, token: advance(model, p, page, token))
    logits = []
    for token in written.T:
        logits.append(page.logits)
        page = read(params, page, token)
    return {"generated_ids": written, "logits": np.stack(logits, axis=1)}


def _no_repeat_ngram(case: Case) -> Outputs:
    ids, c = jnp.asarray(case.inputs["input_ids"]), case.config
    return {"banned": np.asarray(repeated(ids, ids.shape[1], c["no_repeat_ngram_size"], c["vocab_size"]))}


def _clean_response(case: Case) -> Outputs:
    cleaned = {name: clean(text.tobytes().decode()) for name, text in case.inputs.items()}
    return {name: np.frombuffer(text.encode(), np.uint8) for name, text in cleaned.items()}


def _duration_head(case: Case) -> Outputs:
    config = DurationConfig.from_official(case.config)
    streams = [case.inputs.get(f"{stream}_tokens") for stream in ("video", "audio")]
    return {"seconds": _apply(DurationHead(config), to_tree(duration_names(config), case.weights), *streams)}


def _duration_frames(case: Case) -> Outputs:
    return {"frames": np.array([duration_frames(*row) for row in case.config["cases"]], np.int32)}


def _features(case: Case) -> Outputs:
    c, x, mask = case.config, case.inputs["hidden_states"], case.inputs["attention_mask"]
    if case.kind.endswith("v1"):
        version, module = "v1", FeatureExtractorV1(c["caption_channels"])
    else:
        version, module = "v2", FeatureExtractorV2(c["video_dim"], c["audio_dim"])
    video, audio = _apply(module, to_tree(feature_names(version), case.weights), x, mask)
    return {"video": np.asarray(video), "audio": np.asarray(audio)}


def _connector(case: Case) -> Outputs:
    # The keys describe the one connector at hand, whichever stream it belongs to.
    keys = {k: v for k, v in case.config["transformer"].items() if not k.startswith("audio_connector_")}
    config = TextConnectorsConfig.from_official(keys).video
    params, mask = to_tree(connector_names(config), case.weights), case.inputs["attention_mask"]
    encoding = _apply(Connector(config), params, case.inputs["features"], mask)
    return {"encoding": np.asarray(encoding), "mask": np.asarray(context_mask(mask, config.registers))}


def _embeddings(case: Case) -> Outputs:
    x = case.inputs["hidden_states"]
    config = TextConnectorsConfig.from_official(
        case.config["transformer"], num_hidden_states=x.shape[3], hidden_size=x.shape[2]
    )
    params = to_tree(text_connectors_names(config), case.weights, case.prefix)
    video, audio = _apply(TextConnectors(config), params, x, case.inputs["attention_mask"])
    return {"video": np.asarray(video), "audio": np.asarray(audio)}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "text.tokenize": _tokenize,
    "text.attention_mask": _attention_mask,
    "text.rope": _rope,
    "text.gemma3.forward": _gemma_forward,
    "text.gemma4.forward": _gemma_forward,
    "text.gemma3.generate": _generate,
    "text.gemma4.generate": _generate,
    "text.no_repeat_ngram": _no_repeat_ngram,
    "text.clean_response": _clean_response,
    "text.duration_head": _duration_head,
    "diffusion.duration_frames": _duration_frames,
    "text.features_v1": _features,
    "text.features_v2": _features,
    "text.connector": _connector,
    "text.embeddings": _embeddings,
}
