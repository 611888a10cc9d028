"""Say what a file or folder of weights is, or list the official tensors of a configuration.

    python -m ltx_jax.tools.inspect FILE|FOLDER [...]
    python -m ltx_jax.tools.inspect --config=configs/ltx2_5_22b.py --names

The second form prints one JSON line per tensor, {"name", "shape"}, of every part that is published with the release.
Headers alone are read, and nothing is allocated.
"""

import json
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # with libtpu and no TPU, JAX would spend seconds on a warning

from absl import flags

from ltx_jax import cli
from ltx_jax.checkpoints.report import report
from ltx_jax.checkpoints.tables import official_tensors
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment

FLAGS = flags.FLAGS


def main() -> None:
    """Entry point."""
    cli.define_config()
    flags.DEFINE_bool("names", False, "Print one JSON line per official tensor of the configuration.")
    flags.DEFINE_multi_string("path", [], "File or folder to look at; also without the flag's name.")
    cli.run(_inspect, __doc__ or "", cli.positional(sys.argv, "path"))


def _inspect() -> None:
    if FLAGS.names:
        for tensor in official_tensors(Experiment.from_config(FLAGS.config).model):
            print(json.dumps({"name": tensor.name, "shape": tensor.shape}))
        return
    if not FLAGS.path:
        raise UserError("Name a file or a folder to look at, or ask for --names of a --config.")
    for path in FLAGS.path:
        for line in report(path):
            print(line, flush=True)
