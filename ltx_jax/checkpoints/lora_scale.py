"""What the metadata of a LoRA file says of the scale of its products, as PEFT, diffusers and kohya write it.

PEFT's scale is alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised; the rank is that of the pair itself.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ltx_jax.errors import UserError, require
from ltx_jax.parallel.multihost import say

_CONTAINERS = ("lora_adapter_metadata", "adapter_config", "lora_config", "peft_config")  # hold settings as JSON
_ALPHAS = ("lora_alpha", "network_alpha", "alpha")
_SPACES = ("transformer", "diffusion_model", "unet", "model", "")  # those that speak of the transformer


class LoRASettings:
    """The settings in a file's metadata, by namespace: `transformer.lora_alpha` lies in the space `transformer`.

    where: the file, for messages. Every method raises UserError for a value that makes no sense.
    """

    def __init__(self, metadata: Mapping[str, str], where: str):
        self.where = where
        self.spaces: dict[str, dict[str, Any]] = {}
        loose, contained = {}, {}
        for key, text in metadata.items():
            space, _, field = key.rpartition(".")
            value = _parsed(text)
            if field in _CONTAINERS and isinstance(value, dict):
                contained |= {f"{space}.{k}".strip("."): v for k, v in value.items()}
            else:
                loose[key] = value
        for key, value in (loose | contained).items():
            space, _, field = key.rpartition(".")
            self.spaces.setdefault(space, {})[field] = value

    def scale(self, names: Sequence[str], rank: int, kohya: bool) -> float:
        """By what the product of a pair is multiplied. names: all spellings of its module; kohya: whether its keys are
        spelled as kohya's trainers do, whose settings count for no others."""
        space = self._space(names)
        require(not space.get("use_dora"), f"'{self.where}' is a DoRA, its metadata says, which is not supported.")
        patterns = space.get("alpha_pattern") or {}
        alphas = [alpha for pattern, alpha in patterns.items() if any(_matches(pattern, name) for name in names)]
        alphas += [space[key] for key in _ALPHAS if key in space]
        alphas += [self._kohya("ss_network_alpha")] * kohya
        alpha = next((self._number(x) for x in alphas if x not in (None, "None")), None)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if space.get("use_rslora") else rank)

    def note_converted(self) -> None:
        """Say so where kohya's settings are left out of account, for a file whose keys are not spelled as kohya's.

        Converters multiply the scale into the weights and copy the metadata as it was.
        """
        alpha, rank = self._kohya("ss_network_alpha"), self._kohya("ss_network_dim")
        if alpha not in (None, "None", rank) and not self._space(()):
            say(
                f"note: '{self.where}' says ss_network_alpha {alpha} and ss_network_dim {rank}, but its keys are those "
                "of a converted file, which has that factor in its weights: it is used as it is"
            )

    def _kohya(self, key: str) -> Any:
        return self.spaces.get("", {}).get(key)

    def _space(self, names: Sequence[str]) -> dict[str, Any]:
        """The settings of the namespace that speaks of a module; {} where none has any."""
        wanted = ("connectors", *_SPACES) if any("connector" in name for name in names) else _SPACES
        told = {name: s for name, s in self.spaces.items() if any(key in s for key in (*_ALPHAS, "use_dora"))}
        others = [name for name in told if name not in ("connectors", *_SPACES) and "text_encoder" not in name]
        found = next((name for name in wanted if name in told), others[0] if len(others) == 1 else None)
        return {} if found is None else told[found]

    def _number(self, x: Any) -> float:
        try:
            return float(x)
        except (TypeError, ValueError):
            raise UserError(f"'{self.where}' says in its metadata that alpha is '{x}', which is no number.") from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _matches(pattern: str, name: str) -> bool:
    """As PEFT reads a key of alpha_pattern: a regular expression for the end of the name, from a dot on."""
    try:
        return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", name) is not None
    except re.error:
        return False
