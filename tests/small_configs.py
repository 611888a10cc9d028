"""The full-size configurations with small networks: same switches, same command, a size that a CPU runs at once."""

import dataclasses
import runpy
import shutil
import sys
from pathlib import Path

from ltx_jax.experiment import Experiment

sys.path.insert(0, str(Path(__file__).parent / "training"))
sys.path.insert(0, str(Path(__file__).parent))
from tiny import save_tiny_model

ROOT = Path(__file__).parents[1]
FULL = ("ltx2_19b.py", "ltx2_3_22b.py", "ltx2_5_22b.py")

SIZES = {
    "transformer": {
        "num_layers": 2, "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "cross_attention_dim": 32,
        "audio_num_attention_heads": 2,
        "audio_cross_attention_dim": 16, "caption_channels": 32,
    },
    "connectors": {
        "connector_num_attention_heads": 2, "connector_num_layers": 1, "audio_connector_num_attention_heads": 2,
        "connector_num_learnable_registers": 16, "hidden_size": 32, "num_hidden_states": 3,
    },
    "text": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16.0, "sliding_window": 8,
        "sliding_window_pattern": 2, "vocab_size": 512,
        "global_head_dim": 32,
    },
    "video_vae": {"latent_channels": 8, "decoder_base_channels": 8},
    "audio_vae": {"ch": 8},
}  # fmt: skip


def smaller(config):
    """`config` with small networks and clips."""
    for part, sizes in SIZES.items():
        if config.model.get(part):
            config.model[part].update({name: size for name, size in sizes.items() if name in config.model[part]})
    for part in (config.model.transformer, config.model.connectors):
        part.update({name: part[name] // 8 for name in part if name.endswith("head_dim") and part[name]})
    vae = config.model.video_vae
    for blocks in ("encoder_blocks", "decoder_blocks"):
        vae[blocks] = tuple(dataclasses.replace(b, num_layers=1) for b in vae[blocks])
    if vae.get("diffusion"):
        vae.diffusion.update(smaller_diffusion(vae.diffusion, vae.latent_channels))
    for vocoder in config.model.vocoder.values():
        if "upsample_initial_channel" in vocoder:
            vocoder.upsample_initial_channel = 64
    config.model.text_length = 32
    config.data.update(frames=9, height=64, width=96)
    config.model.sampling.update(num_frames=9, height=64, width=96)
    return config


def smaller_diffusion(decoder, channels):
    """The fields of a diffusion decoder that a small one changes."""
    widths = [8]  # of the last stage; those before are as much wider as its upsamples say
    for _, narrower in reversed(decoder.upsamples):
        widths.insert(0, widths[0] * narrower)
    depths = (1,) * len(widths)
    return {
        "in_channels": channels, "head_dim": 8, "stage_channels": tuple(widths), "stage_depths": depths,
        "stage5_channels": None, "t_emb_dim": 16,
    }  # fmt: skip


def write(folder: Path) -> None:
    """The configs of the repository in `folder`; the full-size ones small."""
    folder.mkdir()
    for path in (ROOT / "configs").iterdir():
        if path.name in FULL:
            (folder / path.name).write_text(
                f"import runpy\nget_config = lambda: runpy.run_path({__file__!r})['load']({str(path)!r})\n"
            )
        elif path.name != "__pycache__":
            (folder / path.name).symlink_to(path)


def save_model(config: str, file: Path) -> None:
    """Random weights of a full-size config's small networks at `file`, the text encoder's folder beside it."""
    model = Experiment.from_config(load(str(ROOT / "configs" / config))).model
    folder = save_tiny_model(file.with_suffix(".folder"), of=model)
    (folder / "model.safetensors").rename(file)
    if not (file.parent / "text_encoder").exists():
        (folder / "text_encoder").rename(file.parent / "text_encoder")
    shutil.rmtree(folder)


def load(path: str):
    """The full-size config at `path`, small."""
    return smaller(runpy.run_path(path)["get_config"]())
