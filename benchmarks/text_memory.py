"""What reading the text once saves: 20 sampling steps of a toy whose noise levels do not modulate the text (as in 2.0).

    python benchmarks/text_memory.py            # prints medians of both forms, run in turns

Processor time is counted as well as the clock's: other work on the machine disturbs it less.
"""

import dataclasses
import functools
import sys
import time

import jax
import numpy as np

from ltx_jax.bundle import initial_parts, make_networks
from ltx_jax.diffusion import schedules
from ltx_jax.diffusion.geometry import VideoShape
from ltx_jax.diffusion.guidance import Guidance
from ltx_jax.diffusion.sample import make_plan
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.pipelines.stages import remember_texts, sample_steps
from ltx_jax.pipelines.states import empty_audio, empty_video, make_state
from ltx_jax.releases import release

STEPS, CLIP = 20, VideoShape(17, 32, 32, 8.0)


def main(text_tokens: int, repeats: int) -> None:
    """Print the largest difference of both forms, and what each takes."""
    toy = release("toy")
    toy = dataclasses.replace(toy, transformer=dataclasses.replace(toy.transformer, cross_attention_adaln=False))
    networks, config = make_networks(toy, platform="cpu"), toy.transformer
    params = jax.jit(lambda: initial_parts(networks, ("transformer",), 0))()
    state = make_state(toy, empty_video(toy, CLIP, 1), empty_audio(toy, CLIP, 1))
    draw = lambda i, m: jax.random.normal(jax.random.key(i), (1, text_tokens, config.stream(m).width))
    text = (draw(0, "video"), draw(1, "audio"))
    memory = jax.jit(functools.partial(remember_texts, networks))(params, *text)
    guidance = Guidance(cfg_scale=3.0)
    plan = make_plan(schedules.ltx2(STEPS), guidance, guidance, blocks=config.num_layers)
    sample = jax.jit(functools.partial(sample_steps, networks))
    run = lambda kept: (
        jax.block_until_ready(
            sample(params, {"positive": kept, "negative": kept}, state, plan, 0, STEPS)
        ).video.stream.latent
    )
    forms = {"in every step": text, "once": memory}
    print("largest difference:", float(np.abs(run(text) - run(memory)).max()))
    taken = {name: [] for name in forms}
    for _ in range(repeats):
        for name, kept in forms.items():
            clock, work = time.perf_counter(), time.process_time()
            run(kept)
            taken[name].append((time.perf_counter() - clock, time.process_time() - work))
    for name, times in taken.items():
        clock, work = 1000 * np.median(times, axis=0) / STEPS
        print(f"text read {name}: {clock:.2f} ms a step, {work:.2f} ms of processor time ({text_tokens} text tokens)")


if __name__ == "__main__":
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 48, repeats=15)
