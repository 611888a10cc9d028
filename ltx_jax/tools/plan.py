"""Compile a run for hardware that is not here, with its real compiler, and say whether and how it fits.

    python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=v6e:4x4 --mode=train
    python -m ltx_jax.tools.plan --config=configs/ltx2_19b.py --topology=h100:8 --mode=train

Needs the extra `plan` (pip install '.[plan]'): the TPU and CUDA compilers run on a CPU.
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
from ltx_jax.experiment import Experiment
from ltx_jax.planning.plan import Report, choose_mesh, plan, training_program
from ltx_jax.planning.topology import GIB, topology

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of the planner."""
    cli.define_config()
    flags.DEFINE_string(
        "topology", None, "What to plan for: v5e:4x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x2, h100:8, rtx4090 ..."
    )
    flags.DEFINE_enum("mode", "train", ["train"], "Which program to compile.")
    flags.DEFINE_integer("width", None, "Width in pixels.")
    flags.DEFINE_integer("height", None, "Height in pixels.")
    flags.DEFINE_integer("num_frames", None, "Frames of the clip.")
    flags.DEFINE_float("fps", None, "Frames per second.")
    flags.DEFINE_integer("batch", None, "Samples per step of all devices (default: one per batch shard).")
    flags.DEFINE_bool("json", False, "The report as one JSON line on stdout.")


def main() -> None:
    """Entry point."""
    define_flags()
    cli.run(_plan, __doc__ or "")


def _plan() -> None:
    from ltx_jax.errors import UserError

    if not FLAGS.topology:
        raise UserError("Say what to plan for: --topology=v6e:4x4, h100:8, ...")
    experiment = Experiment.from_config(FLAGS.config)
    defaults = experiment.model.sampling
    shape = VideoShape(
        FLAGS.num_frames or defaults.num_frames, FLAGS.height or defaults.height, FLAGS.width or defaults.width,
        FLAGS.fps or defaults.fps,
    )  # fmt: skip
    target = topology(FLAGS.topology)
    mesh = choose_mesh(experiment.mesh, target)
    print(f"compiling the training step of {experiment.model.name} for {target.name} ...", file=sys.stderr, flush=True)
    report = plan(training_program(experiment, mesh, shape, FLAGS.batch), target)
    print(_json(report) if FLAGS.json else _table(report, shape))


def _json(report: Report) -> str:
    return json.dumps({
        "fits": report.fits, "topology": report.topology, "mesh": report.mesh, "parameters": report.parameters,
        "memory_per_chip": report.memory_per_chip, "hbm_per_chip": report.hbm_per_chip,
        "memory_by_kind": report.memory_by_kind, "largest_replicated": report.largest_replicated[1],
        "compile_s": report.compile_s, "problem": report.problem,
    })  # fmt: skip


def _table(report: Report, shape: VideoShape) -> str:
    name, size = report.largest_replicated
    mesh = ", ".join(f"{axis} {n}" for axis, n in report.mesh.items())
    rows = [
        ("topology", report.topology),
        ("mesh", mesh),
        ("clip", f"{shape.width} x {shape.height}, {shape.frames} frames at {shape.fps:g} fps"),
        ("trained parameters", f"{report.parameters / 1e9:.2f} B"),
        *((f"  {kind}", f"{size / GIB:.2f} GiB") for kind, size in report.memory_by_kind.items()),
        ("memory per chip", f"{report.memory_per_chip / GIB:.2f} of {report.hbm_per_chip / GIB:.2f} GiB"),
        ("largest replicated", f"{size / GIB:.3f} GiB {name}" + ("" if size <= GIB else "  (above 1 GiB!)")),
        ("compile time", f"{report.compile_s:.0f} s"),
        ("fits", ("yes" if report.fits else "no") + (f" ({report.problem})" if report.problem else "")),
    ]
    return "\n".join(f"{name:<22} {value}" for name, value in rows)


if __name__ == "__main__":
    main()
