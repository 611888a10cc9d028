"""Compile a run for hardware that is not here, with its real compiler, and say whether and how it fits.

    python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=v6e:4x4 --mode=train
    python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=h100:1 --mode=train --lora
    python -m ltx_jax.tools.plan --config=configs/ltx2_3_22b.py --topology=rtx4090 --mode=sample --width=768 \\
        --height=512 --num_frames=121 --quantization=int8 --offload=host
    python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=v6e:4x4 --mode=sample --width=3840 \\
        --height=2176 --num_frames=497 --fps=50

What is compiled is what train.py and sample.py run. With no --config.mesh.* a mesh is chosen and printed. Needs the
extra `plan` (pip install '.[plan]'): the TPU and CUDA compilers run on a CPU.
"""

import json
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # with libtpu and no TPU, JAX would spend seconds on a warning
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # or a second process dies of the first one's lock file
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from ltx_jax import cli
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment
from ltx_jax.models.storage import Storage
from ltx_jax.models.video_vae.encoder import check_video_shape
from ltx_jax.planning import report, search
from ltx_jax.planning.meshes import choose_mesh
from ltx_jax.planning.plan import plan
from ltx_jax.planning.topology import topology
from ltx_jax.planning.workload import Workload

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of the planner."""
    cli.define_config()
    flags.DEFINE_string(
        "topology", None, "What to plan for: v5e:4x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x2, h100:8, rtx4090 ..."
    )
    flags.DEFINE_enum("mode", "train", ["train", "sample", "decode", "encode"], "Which program to compile.")
    flags.DEFINE_bool("lora", False, "Train adapters of the frozen transformer alone.")
    cli.define_request("width", "height", "num_frames", "fps")
    cli.define_dtype()
    cli.define_storage()
    flags.DEFINE_integer("batch", None, "Samples per step of all devices (default: one per batch shard).")
    flags.DEFINE_integer("steps", 8, "Steps of the sampling loop.")
    flags.DEFINE_integer("passes", 1, "Network passes of a sampling step, run in one call.")
    flags.DEFINE_bool("search", False, "Try meshes, batches and remat policies and rank them.")
    flags.DEFINE_integer("search_limit", 8, "The most compiles of a search.")
    flags.DEFINE_bool("json", False, "The report as one JSON line, the last on stdout.")


def main() -> None:
    """Entry point."""
    define_flags()
    cli.run(_plan, __doc__ or "")


def _plan() -> None:
    if not FLAGS.topology:
        raise UserError("Say what to plan for: --topology=v6e:4x4, h100:8, ...")
    experiment = Experiment.from_config(FLAGS.config)
    workload = _workload(experiment)
    target = topology(FLAGS.topology)
    if FLAGS.search:
        _search(experiment, workload, target)
        return
    mesh = choose_mesh(experiment.mesh, target, workload, experiment.model)
    sizes = ", ".join(f"{axis} {n}" for axis, n in mesh.shape.items())
    _say(f"compiling {workload.mode} of {experiment.model.name} for {target.name}, mesh {sizes} ...")
    found = plan(experiment, workload, target, mesh)
    table = report.as_table(found, workload)
    if FLAGS.json:
        _say(table)
        print(json.dumps(report.as_dict(found)))
    else:
        print(table)


def _workload(experiment: Experiment) -> Workload:
    defaults = experiment.model.sampling
    pick = lambda name: getattr(defaults, name) if FLAGS[name].value is None else FLAGS[name].value
    shape = VideoShape(pick("num_frames"), pick("height"), pick("width"), pick("fps"))
    check_video_shape(experiment.model.video_vae, shape.frames, shape.height, shape.width)
    storage = Storage(FLAGS.quantization, FLAGS.offload)
    return Workload(FLAGS.mode, shape, FLAGS.batch, FLAGS.steps, FLAGS.passes, FLAGS.lora, FLAGS.dtype, storage)


def _search(experiment: Experiment, workload: Workload, target) -> None:
    trials = []
    for trial in search.search(experiment, workload, target, FLAGS.search_limit):
        trials.append(trial)
        _say(search.as_table([trial]))
    if not trials:
        raise UserError("No mesh of this topology suits the model; name one with --config.mesh.*.")
    best = search.ranked(trials)[0]
    (_say if FLAGS.json else print)(search.as_table(trials))
    if FLAGS.json:
        print(json.dumps(report.as_dict(best.report) | {"batch": best.samples, "remat": best.remat}))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
