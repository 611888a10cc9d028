"""How fast tensors come from a file onto a device, beside `np.fromfile` of the same bytes.

    python benchmarks/loading.py --gigabytes=4
    python benchmarks/loading.py --file=model.safetensors

The file is read once before (its pages are cached), types are kept. A row each: np.fromfile of every tensor; the same
tensors placed as they lie; the same transposed on the device, as linear layers are.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from ltx_jax.checkpoints.safetensors import SafetensorsFile
from ltx_jax.checkpoints.streaming import PartReader
from ltx_jax.names import Name
from ltx_jax.parallel.mesh import MeshConfig, make_mesh

LAYER = {"attn": (4096, 4096), "up": (16384, 4096), "down": (4096, 16384)}  # of the 22B transformer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the file that is made, of stacked layers")
    parser.add_argument("--file", help="a file to read instead; each tensor is then placed alone")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(args.file or make_file(Path(folder) / "layers.safetensors", args.gigabytes))
        file = SafetensorsFile(path)
        size = sum(map(file.nbytes, file))
        rows = {
            "np.fromfile": lambda: from_file(file),
            "placed": lambda: place(file, None),
            "placed, transposed": lambda: place(file, (1, 0)),
        }
        print(f"{size / 1e9:.2f} GB in {len(file)} tensors, {jax.devices()[0].device_kind}, {os.cpu_count()} cores")
        seconds = {}
        for name, run in rows.items():
            run()  # what is compiled, and pages of the file
            seconds[name] = statistics.median(timed(run) for _ in range(args.repeats))
            share = seconds["np.fromfile"] / seconds[name]
            print(
                f"{name:<20} {seconds[name]:7.2f} s {size / seconds[name] / 1e9:7.2f} GB/s  {share:5.2f} of np.fromfile"
            )


def make_file(path: Path, gigabytes: float) -> Path:
    """A file of as many layers as `gigabytes` hold."""
    layers = max(1, int(gigabytes * 1e9 / sum(2 * a * b for a, b in LAYER.values())))
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.integers(0, 1 << 14, shape, np.uint16).view(ml_dtypes.bfloat16)
    save_file({f"{i}.{name}": draw(shape) for i in range(layers) for name, shape in LAYER.items()}, path)
    return path


def from_file(file: SafetensorsFile) -> None:
    """Every tensor by NumPy's own reader, one after the other."""
    for name in file:
        begin = file.offset(name)
        np.fromfile(file.path, np.uint8, file.nbytes(name), offset=begin)


def place(file: SafetensorsFile, axes: tuple[int, int] | None) -> None:
    """Every tensor on the first device, those of equal last names stacked; axes: of matrices."""
    groups: dict[str, int] = {}
    for name in file:
        first, _, rest = name.partition(".")
        key = f"{{i}}.{rest}" if first.isdigit() else name
        groups[key] = max(groups.get(key, 0), int(first) + 1) if first.isdigit() else 0
    turned = lambda key: axes if len(file.shape(key.replace("{i}", "0"))) == 2 else None
    names = [Name(key, (key,), turned(key), count or None) for key, count in groups.items()]
    sharding = NamedSharding(make_mesh(MeshConfig(), jax.devices()[:1]), PartitionSpec())
    PartReader("all", names, file, "").place({name.path[0]: sharding for name in names})


def timed(run) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
