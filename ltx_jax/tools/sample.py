"""Sample clips with sound from a prompt.

    python sample.py --prompt="a red circle" --seed=1 --output=out.mp4

With no --checkpoint the toy weights that ship with the package are used.
"""

import dataclasses
import json
import os

from absl import flags

from ltx_jax import cli
from ltx_jax.checkpoints.lora import apply_loras, parse_lora
from ltx_jax.errors import UserError
from ltx_jax.experiment import Experiment, check_same_model
from ltx_jax.media.images import contact_sheet
from ltx_jax.parallel.mesh import make_mesh
from ltx_jax.parallel.multihost import is_first, say
from ltx_jax.pipelines.request import Request, check_output
from ltx_jax.pipelines.runner import generate, open_model, read_prompts

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define the flags of the sampler."""
    cli.define_config()
    cli.define_cluster()
    flags.DEFINE_multi_string("prompt", [], "What the clip shows and sounds like; may be repeated.")
    flags.DEFINE_string("prompts_file", None, "A text file with one prompt a line, instead of --prompt.")
    flags.DEFINE_string("negative_prompt", None, "What guidance steers away from (default: the release's).")
    flags.DEFINE_string("output", "out.mp4", "Video file to write (also --output-path).")
    flags.DEFINE_integer("seed", None, "Seed of the noise; equal seeds give equal clips.")
    flags.DEFINE_integer("num_samples", 1, "Clips per prompt.")
    flags.DEFINE_integer("steps", None, "Denoising steps (also --num-inference-steps).")
    flags.DEFINE_float("cfg", None, "Guidance scale; 1 turns guidance off.")
    flags.DEFINE_float("audio_cfg", None, "Guidance scale of the sound (default: as --cfg where that is given).")
    cli.define_clip_size()
    flags.DEFINE_string("image", None, "Picture to start from, held as the first frame: PATH [0 [STRENGTH]].")
    flags.DEFINE_string("checkpoint", None, "Folder or .safetensors file of weights (default: the shipped toy).")
    flags.DEFINE_string("text_encoder", None, "Folder of the text encoder, where the checkpoint does not hold it.")
    flags.DEFINE_multi_string("lora", [], "LoRA to merge: PATH[:STRENGTH] (or PATH STRENGTH); may be repeated.")
    flags.DEFINE_string("contact_sheet", None, "Also write the clips' frames as one PNG here.")
    flags.DEFINE_bool("progress", True, "Show a progress bar.")


def main() -> None:
    """Entry point."""
    define_flags()
    cli.run(_sample, __doc__ or "")


def _sample() -> None:
    fields = (
        "negative_prompt",
        "seed",
        "num_samples",
        "width",
        "height",
        "num_frames",
        "fps",
        "steps",
        "cfg",
        "audio_cfg",
    )
    cli.join_cluster()
    prompts = tuple(FLAGS.prompt) or read_prompts(FLAGS.prompts_file)
    image, strength = _image(FLAGS.image)
    settings = {name: FLAGS[name].value for name in fields}
    request = Request(prompts, image=image, image_strength=strength, **settings)
    experiment = Experiment.from_config(FLAGS.config)
    model = open_model(FLAGS.checkpoint, FLAGS.text_encoder)
    if cli.given("config"):
        check_same_model(experiment.model, model.release, FLAGS.checkpoint or "the shipped weights")
    model = apply_loras(model, [parse_lora(text) for text in FLAGS.lora])
    request = request.resolve(model.release)
    outputs = check_output(FLAGS.output, len(request.clips))
    mesh = make_mesh(experiment.mesh)
    say(json.dumps(dataclasses.asdict(request), indent=2))
    clips = generate(model, request, mesh=mesh, progress=FLAGS.progress and is_first())
    if not is_first():
        return
    for clip, path in zip(clips, outputs, strict=True):
        clip.save(path)
        print(path)
    if FLAGS.contact_sheet:
        contact_sheet([clip.video for clip in clips], FLAGS.contact_sheet)
        print(FLAGS.contact_sheet)


def _image(value: str | None) -> tuple[str | None, float]:
    """Path and strength of `--image PATH [FRAME [STRENGTH]]`, whose values arrive joined by commas."""
    if value is None:
        return None, 1.0
    path, *numbers = value.split(",") if not os.path.exists(value) else [value]
    try:
        frame, strength = (*(float(n) for n in numbers[:2]), *(0.0, 1.0)[len(numbers[:2]) :])
    except ValueError:
        raise UserError(f"--image takes a path, a frame index and a strength, not '{value}'.") from None
    if frame != 0:
        raise UserError(f"--image at frame {frame:g}: pictures can only be held as frame 0 so far.")
    return path, strength


if __name__ == "__main__":
    main()
