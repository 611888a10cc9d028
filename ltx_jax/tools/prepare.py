"""Turn videos into shards of latents, text features and metadata, ready to train the transformer on.

    python -m ltx_jax.tools.prepare --input=CLIPS --output=PREPARED --resolutions=32x32x17 --workers=2
    python train.py --stage=dit --config.data.path=PREPARED --workdir=runs/mine ...

The input is a folder (searched through; a caption lies in a .txt beside its video) or a CSV, JSON or JSONL list with
the columns video (or media_path) and caption. Run again after a crash, it goes on where it stopped.
"""

from pathlib import Path

from absl import flags

from ltx_jax import cli
from ltx_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of the preparation."""
    cli.define_config()
    flags.DEFINE_string("input", None, "Folder of videos, or a CSV, JSON or JSONL list of them.")
    flags.DEFINE_string("output", None, "Folder of the shards.")
    flags.DEFINE_string("checkpoint", None, "Folder or file of the model that encodes (default: the shipped toy).")
    flags.DEFINE_string("text_encoder", None, "Folder of the text encoder, where the checkpoint does not hold it.")
    flags.DEFINE_list(
        "resolutions", None, "Buckets WIDTHxHEIGHTxFRAMES[@FPS], with commas; FPS 'source' keeps a file's own rate "
        "(default: the size, frames and fps of config.data)."
    )  # fmt: skip
    flags.DEFINE_integer("workers", 2, "Processes that decode; 0: decode in this one.")
    flags.DEFINE_enum(
        "engine", "local", ["local", "ray"], "Worker processes here, or a Ray cluster's tasks and actors."
    )
    flags.DEFINE_string("ray_address", None, "Ray cluster to join (default: as Ray finds it, else a local one).")
    flags.DEFINE_integer("batch", 4, "Clips encoded together.")
    flags.DEFINE_integer("shard_clips", 256, "Clips of a shard; a multiple of --batch.")
    flags.DEFINE_bool("scenes", True, "Cut videos at scene changes.")
    flags.DEFINE_float("threshold", 12.0, "Change of the picture (0..255) that a scene cut must reach.")
    flags.DEFINE_integer("clips_per_scene", 0, "Clips taken of a scene from its start on; 0: as many as fit.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the encoders' computation and weights.")
    flags.DEFINE_enum(
        "stored", "bfloat16", ["bfloat16", "float32"], "Of video latents and text features in the shards."
    )
    flags.DEFINE_integer(
        "tile", 0, "Side in pixels of the tiles in which larger pictures are encoded, overlapping by a quarter; 512 is "
        "usual and bounds the memory (default: encode pictures whole)."
    )  # fmt: skip
    flags.DEFINE_bool("progress", True, "Show progress bars.")


def main() -> None:
    """Entry point."""
    define_flags()
    cli.run(_prepare, __doc__ or "")


def _prepare() -> None:
    # Imported here, since worker processes import this module again and need none of it.
    from ltx_jax.checkpoints.load import TOY
    from ltx_jax.data.buckets import checked_buckets, parse_buckets
    from ltx_jax.data.preparation.clips import ClipRules
    from ltx_jax.data.preparation.encode import EncoderSpec, model_identity
    from ltx_jax.data.preparation.engines import open_engine
    from ltx_jax.data.preparation.prepare import prepare, summary
    from ltx_jax.experiment import Experiment, check_same_model

    for name in ("input", "output"):
        if not FLAGS[name].value:
            raise UserError(f"Say where the videos are and where the shards go: --{name} is missing.")
    if not Path(FLAGS.input).exists():  # before the weights are read
        raise UserError(f"There is no folder or list '{FLAGS.input}'.")
    experiment = Experiment.from_config(FLAGS.config)
    data = experiment.data
    names = FLAGS.resolutions or [f"{data.width}x{data.height}x{data.frames}"]
    parse_buckets(names, data.fps)  # before the weights are read as well
    encoders = EncoderSpec(
        FLAGS.checkpoint or str(TOY), FLAGS.text_encoder, FLAGS.batch, FLAGS.dtype, experiment.mesh, FLAGS.stored,
        FLAGS.tile,
    )  # fmt: skip
    model = encoders.bundle()
    if cli.given("config"):
        check_same_model(experiment.model, model.release, encoders.checkpoint)
    rules = ClipRules(
        checked_buckets(names, data.fps, model.release.video_vae.scale_factors),
        model.release.audio_vae.sampling_rate, FLAGS.scenes, FLAGS.threshold, FLAGS.clips_per_scene,
    )  # fmt: skip
    output = Path(FLAGS.output)
    with open_engine(FLAGS.engine, encoders, FLAGS.workers, FLAGS.ray_address) as engine:
        index = prepare(
            FLAGS.input, output, rules, engine, model_identity(model), batch=FLAGS.batch,
            shard_clips=FLAGS.shard_clips, settings=encoders.record_settings, progress=FLAGS.progress,
        )  # fmt: skip
    print(summary(index, output))


if __name__ == "__main__":
    main()
