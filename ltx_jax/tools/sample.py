"""Sample clips with sound from a prompt.

    python sample.py --prompt="a red circle" --seed=1 --output=out.mp4

With no --checkpoint the toy weights that ship with the package are used.
"""

import os

from absl import flags

from ltx_jax import cli
from ltx_jax.errors import UserError, require
from ltx_jax.experiment import Experiment, check_same_model
from ltx_jax.media.images import contact_sheet
from ltx_jax.parallel.mesh import make_mesh
from ltx_jax.parallel.multihost import is_first, say
from ltx_jax.pipelines.clip import check_outputs, save_all
from ltx_jax.pipelines.request import Request, read_prompts
from ltx_jax.pipelines.sampler import open_model

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of the sampler."""
    cli.define_config()
    cli.define_cluster()
    cli.define_request()
    flags.DEFINE_string("prompts_file", None, "A text file with one prompt a line, instead of --prompt.")
    flags.DEFINE_string("output", "out.mp4", "Video file to write (also --output-path).")
    flags.DEFINE_string("contact_sheet", None, "Also write the clips' frames as one PNG here.")
    cli.define_files()
    flags.DEFINE_string("prompt_enhancer", None, "Folder of the chat model of --enhance_prompt (default: the encoder).")
    flags.DEFINE_multi_string("lora", [], "LoRA to merge: PATH[:STRENGTH] (or PATH STRENGTH); may be repeated.")
    cli.define_dtype()
    cli.define_storage()
    flags.DEFINE_bool("progress", True, "Show a progress bar.")


def main() -> None:
    """Entry point."""
    define_flags()
    cli.run(_sample, __doc__ or "")


def _sample() -> None:
    cli.join_cluster()
    request = Request(**_settings())
    outputs = check_outputs(FLAGS.output, len(request.clips), FLAGS.contact_sheet)
    experiment = Experiment.from_config(FLAGS.config)
    mesh = make_mesh(experiment.mesh)
    model = open_model(
        FLAGS.checkpoint, FLAGS.text_encoder, files=cli.component_files(), loras=FLAGS.lora,
        prompt_enhancer=FLAGS.prompt_enhancer, mesh=mesh, dtype=FLAGS.dtype,
        quantization=FLAGS.quantization, offload=FLAGS.offload,
    )  # fmt: skip
    if cli.given("config"):
        check_same_model(experiment.model, model.bundle.release, model.sampler.origin["checkpoint"])
    request = request.resolve(model.bundle.release)
    clips = model.sampler.clips(request, progress=FLAGS.progress and is_first())
    say(request.to_json())
    stills = []
    for clip, path in zip(save_all(clips, outputs, write=is_first()), outputs, strict=True):
        if is_first():
            print(path, flush=True)
        if FLAGS.contact_sheet:
            stills.append(clip.stills())
    if FLAGS.contact_sheet and is_first():
        print(contact_sheet(stills, FLAGS.contact_sheet))


def _settings() -> dict:
    settings = cli.request_settings()
    require(not settings["prompts"] or FLAGS.prompts_file is None, "Give --prompt or --prompts_file, not both.")
    settings["prompts"] = tuple(settings["prompts"]) or read_prompts(FLAGS.prompts_file)
    if settings["image"] is not None:
        settings["image"], strength = _image(settings["image"])
        settings["image_strength"] = settings["image_strength"] if strength is None else strength
    return settings


def _image(value: str) -> tuple[str, float | None]:
    """Path and strength of `--image PATH [FRAME [STRENGTH]]`, whose values arrive joined by commas."""
    path, *numbers = value.split(",") if not os.path.exists(value) else [value]
    try:
        frame, strength = (*(float(n) for n in numbers[:2]), *(0.0, None)[len(numbers[:2]) :])
    except ValueError:
        raise UserError(f"--image takes a path, a frame index and a strength, not '{value}'.") from None
    if frame != 0:
        raise UserError(f"--image at frame {frame:g}: pictures can only be held as frame 0 so far.")
    return path, strength


if __name__ == "__main__":
    main()
