"""Train an audio-video model from scratch or from an earlier run.

    python train.py --config=configs/toy.py --workdir=runs/toy
    python train.py --config=configs/toy.py --workdir=runs/mine --config.data.path=FOLDER_OF_VIDEOS

Running the same command again goes on from the last checkpoint; SIGTERM saves one and exits with 0. On several hosts
run the same command on each (docs/scale.md). The finished model lies in WORKDIR/model, ready for
`python sample.py --checkpoint=WORKDIR/model`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from jax.sharding import Mesh

from ltx_jax import cli
from ltx_jax.checkpoints.load import TOY
from ltx_jax.config import to_mapping
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment
from ltx_jax.parallel.mesh import make_mesh
from ltx_jax.pipelines.previews import Previews
from ltx_jax.training.config import STAGES, StageName
from ltx_jax.training.record import RunRecord
from ltx_jax.training.run import MakePreviews, train

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of the trainer."""
    cli.define_config()
    cli.define_cluster()
    flags.DEFINE_string("workdir", None, "Folder of checkpoints, logs, samples and the finished model.")
    flags.DEFINE_enum("stage", "all", ["all", *STAGES], "Which stage to train.")
    flags.DEFINE_string("init_from", None, "Earlier run or model whose weights to start from; 'toy': the shipped one.")
    flags.DEFINE_string("text_encoder", None, "Folder of that model's text encoder, where it does not lie beside it.")


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
    path = lambda name: Path(name) if name else None
    init_from = TOY if FLAGS.init_from == "toy" else path(FLAGS.init_from)
    run_training(
        experiment, make_mesh(experiment.mesh), Path(FLAGS.workdir), stages, init_from,
        text_encoder=path(FLAGS.text_encoder), previews=Previews, command=sys.argv,
    )  # fmt: skip


def run_training(
    experiment: Experiment, mesh: Mesh, workdir: Path, stages: Sequence[StageName] = STAGES,
    init_from: Path | None = None, *, text_encoder: Path | None = None, previews: MakePreviews | None = None,
    command: Sequence[str] = (),
) -> None:  # fmt: skip
    """Run `train` as the experiment says, see training/run.py."""
    train(
        experiment.model, experiment.training, experiment.data, mesh, workdir, stages, init_from=init_from,
        text_encoder=text_encoder, previews=previews, record=RunRecord(to_mapping(experiment), tuple(command)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
