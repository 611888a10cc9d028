"""Prompts of the toy world with what they ask for, of scenes and flights that no training clip shows."""

import dataclasses

from ltx_jax.data.raw.toy.vocabulary import UNSEEN_BODIES
from ltx_jax.data.raw.toy.world import Clip, Combinations, Scene, WorldConfig, render, told

FIRST_SEED = 1_000_003  # of worlds to test on: seeds of training data are small numbers


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A prompt and its scene. names_scene: whether the words say sizes and background, too. number: of its world's
    clip.
    """

    prompt: str
    scene: Scene
    number: int

    @property
    def names_scene(self) -> bool:
        return "background" in self.prompt

    @property
    def unseen(self) -> bool:
        """Whether the prompt names a combination that no training clip shows."""
        if self.names_scene:
            return self.scene.unseen
        return bool(set(zip(self.scene.colors, self.scene.shapes, strict=True)) & UNSEEN_BODIES)


def draw_prompts(count: int, seed: int = 0) -> list[Wanted]:
    """`count` prompts of the world's grammar, by turns of seen and of unseen combinations."""
    drawn: dict[bool, list[Wanted]] = {False: [], True: []}
    kinds: dict[bool, Combinations] = {False: "seen", True: "unseen"}
    for unseen, found in drawn.items():
        config, number = WorldConfig(combinations=kinds[unseen]), 0
        while len(found) < (count + 1) // 2:
            truth, text = told(FIRST_SEED + seed, number, config)
            wanted = Wanted(text, truth.scene, number)
            if wanted.unseen == unseen:
                found.append(wanted)
            number += 1
    return [wanted for pair in zip(drawn[False], drawn[True], strict=True) for wanted in pair][:count]


def true_clips(prompts: list[Wanted], config: WorldConfig, draw: int = 0) -> list[Clip]:
    """Clips of the prompts' scenes, the way the world would show them; draw: other numbers give other flights."""
    return [render(2 * FIRST_SEED + draw, i, config, wanted.scene) for i, wanted in enumerate(prompts)]
