"""Train an audio-video model from scratch or from an earlier run.

    python train.py --config=configs/toy.py --workdir=runs/toy
    python train.py --config=configs/toy.py --workdir=runs/mine --config.data.path=FOLDER_OF_VIDEOS

Running the same command again goes on from the last checkpoint; SIGTERM saves one and exits with 0. On several hosts
run the same command on each (docs/scale.md). The finished model lies in WORKDIR/model, ready for
`python sample.py --checkpoint=WORKDIR/model`.
"""

from pathlib import Path

from absl import flags

from ltx_jax import cli
from ltx_jax.checkpoints.load import TOY
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment, run_training
from ltx_jax.parallel.mesh import make_mesh
from ltx_jax.training.config import STAGES

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of the trainer."""
    cli.define_config()
    cli.define_cluster()
    flags.DEFINE_string("workdir", None, "Folder of checkpoints, logs, samples and the finished model.")
    flags.DEFINE_enum("stage", "all", ["all", "video_vae", "audio_vae", "dit"], "Which stage to train.")
    flags.DEFINE_string("init_from", None, "Earlier run or model whose weights to start from; 'toy': the shipped one.")


def main() -> None:
    """Entry point."""
    define_flags()
    cli.run(_train, __doc__ or "")


def _train() -> None:
    cli.join_cluster()
    experiment = Experiment.from_config(FLAGS.config)
    if not FLAGS.workdir:
        raise UserError("Say where to keep checkpoints and results: --workdir=FOLDER.")
    stages = STAGES if FLAGS.stage == "all" else (FLAGS.stage,)
    init_from = Path(TOY if FLAGS.init_from == "toy" else FLAGS.init_from) if FLAGS.init_from else None
    run_training(experiment, make_mesh(experiment.mesh), Path(FLAGS.workdir), stages, init_from)


if __name__ == "__main__":
    main()
