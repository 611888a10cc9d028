"""Convert a model's files from one layout to another, tensor by tensor, bit for bit.

    python -m ltx_jax.tools.convert --input=ltx-2-19b-dev.safetensors --output=converted --to=diffusers
    python -m ltx_jax.tools.convert --input=converted --output=again --to=split --verify --manifest

Layouts: official (one file of all parts, and a folder of the text encoder), split (a file per component, as 2.5 is
published), diffusers (a pipeline's folder), orbax (as official, a folder of Orbax checkpoints in the place of each
file). The input is whatever sample.py takes. Running the same command again goes on where it was stopped.
"""

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # with libtpu and no TPU, JAX would spend seconds on a warning

from absl import flags
from tqdm import tqdm

from ltx_jax import cli
from ltx_jax.checkpoints.convert import LAYOUTS, Model, Output, described, plan, verify, write
from ltx_jax.errors import require

FLAGS = flags.FLAGS


def main() -> None:
    """Entry point."""
    cli.define_config()
    cli.define_files()
    flags.DEFINE_string("output", None, "Folder to write.")
    flags.DEFINE_enum("to", None, LAYOUTS, "Layout of what is written.")
    flags.DEFINE_bool("dry_run", False, "Print what would be written, with sizes, and write nothing.")
    flags.DEFINE_bool("verify", False, "Read everything back and compare checksums.")
    flags.DEFINE_bool("manifest", False, "Leave the SHA-256 of every tensor beside each file.")
    flags.DEFINE_bool("progress", True, "Show a progress bar.")
    cli.run(_convert, __doc__ or "", [a.replace("--input", "--checkpoint", 1) for a in sys.argv])


def _convert() -> None:
    require(FLAGS.to is not None, f"Say which layout to write: --to={'|'.join(LAYOUTS)}.")
    require(FLAGS.output is not None or FLAGS.dry_run, "Say where to write: --output=FOLDER.")
    files = cli.component_files() | {"text_encoder": FLAGS.text_encoder}
    require(FLAGS.checkpoint is not None or any(files.values()), "Say what to convert: --input=FILE or FOLDER.")
    model = Model.open(FLAGS.checkpoint, files)
    outputs = plan(model, FLAGS.to)
    for line in described(outputs):
        print(line)
    if FLAGS.dry_run:
        return
    folder = Path(FLAGS.output)
    sources = {source.path.resolve() for source in model.catalog.sources()}
    require(
        not any((folder / output.path).resolve() in sources for output in outputs),
        f"'{folder}' holds the files that are read; name another folder with --output.",
    )
    _check_room(folder, outputs)
    total = sum(output.nbytes for output in outputs if output.tensors is not None)
    with tqdm(total=total, desc="writing", unit="B", unit_scale=True, disable=not FLAGS.progress) as bar:
        write(outputs, folder, model.origin, bar.update, FLAGS.manifest)
    if FLAGS.verify:
        with tqdm(total=total, desc="comparing", unit="B", unit_scale=True, disable=not FLAGS.progress) as bar:
            count = verify(outputs, folder, bar.update)
        print(f"verified: {count} tensors are as they were read")
    print(folder)


def _check_room(folder: Path, outputs: list[Output]) -> None:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    needed, free = sum(output.nbytes for output in outputs), shutil.disk_usage(there).free
    held = sum(path.stat().st_size for path in folder.rglob("*.safetensors*")) if folder.exists() else 0
    require(
        needed <= free + held, f"'{folder}' needs {needed / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB free."
    )


if __name__ == "__main__":
    main()
