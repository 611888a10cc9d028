"""Configuration of the 2.5 diffusion video decoder and the sizes that follow from it (spec video_vae.md 1.2, 7, 8)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ltx_jax.config import from_mapping, to_mapping
from ltx_jax.errors import require

Sizes = tuple[int, int, int]

CLASS_NAME = "NADiffusionDecoder"
_UNREAD = frozenset({"_class_name", "resampler_kind", "spatial_padding_mode"})


@dataclasses.dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Official names; a default is what an absent field means. Sizes are (frames, rows, columns).

    The last entry of stage_channels and stage_depths is the denoising stage, whose window is stage5_kernel and whose
    width stage5_channels replaces where given; the ones before it, each with its upsample (stride, by how much it
    narrows), make the context. model_output_type: what the network predicts, x0 or the velocity.
    """

    in_channels: int = 128
    out_channels: int = 3
    patch_size: int = 4
    head_dim: int = 64
    stage_channels: tuple[int, ...] = (1024, 512, 256, 256, 128)
    stage_depths: tuple[int, ...] = (4, 6, 4, 2, 8)
    stage_kernels: tuple[Sizes, ...] = ((3, 7, 7), (3, 7, 7), (3, 5, 5), (3, 5, 5), (3, 3, 3))
    upsamples: tuple[tuple[Sizes, int], ...] = (((1, 2, 2), 2), ((2, 1, 1), 2), ((2, 2, 2), 1), ((2, 2, 2), 2))
    stage5_kernel: Sizes = (3, 7, 7)
    stage5_channels: int | None = None
    t_emb_dim: int = 384
    timestep_scale_multiplier: float = 1.0
    default_num_inference_steps: int = 2
    model_output_type: Literal["v", "x0"] = "v"

    def __post_init__(self):
        counts = [len(getattr(self, name)) for name in ("stage_channels", "stage_depths", "stage_kernels")]
        require(
            len(set(counts)) == 1 and len(self.upsamples) == counts[0] - 1 >= 1,
            f"The diffusion decoder needs as many stage_channels, stage_depths and stage_kernels, and one upsample "
            f"less, not {counts} and {len(self.upsamples)}.",
        )
        for name in ("in_channels", "out_channels", "patch_size", "t_emb_dim", "default_num_inference_steps"):
            require(getattr(self, name) >= 1, f"The diffusion decoder's {name} must be at least 1.")
        require(min(self.stage_depths) >= 1, f"Every stage needs a depth of at least 1, not {self.stage_depths}.")
        require(
            self.head_dim % 8 == 0, f"The diffusion decoder's head_dim must be a multiple of 8, not {self.head_dim}."
        )
        for width in (*self.stage_channels, self.width):
            require(width % self.head_dim == 0, f"A stage of {width} channels has no heads of {self.head_dim}.")
        for i, (_, narrower) in enumerate(self.upsamples):
            require(
                self.stage_channels[i + 1] * narrower == self.stage_channels[i],
                f"upsamples[{i}] divides {self.stage_channels[i]} channels by {narrower}, but stage_channels says "
                f"{self.stage_channels[i + 1]}.",
            )

    @property
    def width(self) -> int:
        """Channels of the denoising stage."""
        return self.stage5_channels or self.stage_channels[-1]

    @property
    def strides(self) -> tuple[Sizes, ...]:
        """By what each upsample multiplies."""
        return tuple(stride for stride, _ in self.upsamples)

    @property
    def factors(self) -> Sizes:
        """Pixels per latent."""
        time, height, width = _product(self.strides)
        return time, height * self.patch_size, width * self.patch_size

    @property
    def cell(self) -> Sizes:
        """Pixels per cell of the grid that the last context stage works on, the one that is cut into tiles."""
        time, height, width = self.strides[-1]
        return time, height * self.patch_size, width * self.patch_size

    @property
    def floor(self) -> Sizes:
        """The least latents that every stage's window fits in; smaller ones are padded (7.1)."""
        before = [_product(self.strides[:i]) for i in range(len(self.strides) + 1)]
        windows = [*self.stage_kernels[:-1], self.stage5_kernel]
        return _largest(_divided_up(window, stride) for window, stride in zip(windows, before, strict=True))

    @property
    def ghosts(self) -> int:
        """Copies of the last latent behind it, so that the windows of what is kept do not shift (7.1)."""
        return 2 * (self.stage_kernels[0][0] // 2)

    @property
    def halos(self) -> tuple[Sizes, Sizes]:
        """How far the last context stage and the denoising stage see, in cells of the tiled grid (8)."""
        reach = lambda depth, window: tuple(depth * (k // 2) for k in window)
        context = reach(self.stage_depths[-2], self.stage_kernels[-2])
        return context, _divided_up(reach(self.stage_depths[-1], self.stage5_kernel), self.strides[-1])  # type: ignore

    @property
    def tile_overlap(self) -> Sizes:
        """The least overlap of tiles in frames and pixels (8)."""
        time, *space = _largest(self.halos)
        pixels = max(cells * size for cells, size in zip(space, self.cell[1:], strict=True))
        return _round_up(time * self.cell[0], 8), _round_up(pixels, 32), _round_up(pixels, 32)

    @property
    def least_tile(self) -> Sizes:
        """The least tile in cells (8)."""
        return _largest((self.stage_kernels[-2], _divided_up(self.stage5_kernel, self.strides[-1])))

    def grid(self, latents: Sequence[int]) -> Sizes:
        """Cells of the tiled grid that latents (F, H, W) become: frames that double lose the first."""
        return _upsampled(latents, self.strides[:-1])

    def cells(self, latents: Sequence[int]) -> Sizes:
        """`grid` of padded latents with their ghosts: the cells that there are."""
        frames, height, width = self.padded(latents)
        return self.grid((frames + self.ghosts, height, width))

    def canvas(self, latents: Sequence[int]) -> Sizes:
        """Frames and pixels of the noise that decoding latents (F, H, W) starts from: those of the padded latents."""
        frames, height, width = _upsampled(self.padded(latents), self.strides)
        return frames, height * self.patch_size, width * self.patch_size

    def padded(self, latents: Sequence[int]) -> Sizes:
        """Sizes of latents (F, H, W) padded to the floor."""
        return _largest((tuple(latents), self.floor))  # type: ignore[arg-type]

    def content(self, latents: Sequence[int]) -> tuple[slice, slice, slice]:
        """Of the pixels that padded latents become those of the latents (F, H, W) themselves."""
        (frames, *_), padded = latents, self.padded(latents)
        spans = [slice(0, (frames - 1) * self.factors[0] + 1)]
        for size, most, factor in zip(latents[1:], padded[1:], self.factors[1:], strict=True):
            before = (most - size) // 2 * factor
            spans.append(slice(before, before + size * factor))
        return spans[0], spans[1], spans[2]

    def kept_frames(self, context: int) -> int:
        """Of `context` frames of a context that ends in ghosts, those that are denoised (7.1, 8)."""
        ghosts = self.ghosts * self.factors[0]
        return min(context, max(context - ghosts, 1, self.stage5_kernel[0]))

    @classmethod
    def from_official(cls, mapping: Mapping[str, Any], output_type: Any = "v") -> "DiffusionDecoderConfig":
        """From the block `vae.decoder`; output_type: `vae.model_output_type`, which lies beside it."""
        fields = dict(mapping)
        if "na_head_dim" in fields:
            fields.setdefault("head_dim", fields.pop("na_head_dim"))
            fields.pop("na_head_dim", None)
        return from_mapping(cls, {**fields, "model_output_type": output_type}, "vae.decoder", _UNREAD)

    def to_official(self) -> dict[str, Any]:
        """The block `vae.decoder` that `from_official` reads back, without the output type; JSON-able."""
        fields = {k: v for k, v in to_mapping(self).items() if v is not None and k != "model_output_type"}
        return {"_class_name": CLASS_NAME, **fields}


def _product(strides: Sequence[Sizes]) -> Sizes:
    return tuple(math.prod(s) for s in zip((1, 1, 1), *strides, strict=True))  # type: ignore[return-value]


def _divided_up(sizes: Sequence[int], by: Sequence[int]) -> Sizes:
    return tuple(-(-a // b) for a, b in zip(sizes, by, strict=True))  # type: ignore[return-value]


def _largest(sizes: Any) -> Sizes:
    return tuple(map(max, zip(*sizes, strict=True)))  # type: ignore[return-value]


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _upsampled(sizes: Sequence[int], strides: Sequence[Sizes]) -> Sizes:
    frames, height, width = sizes
    for time, rows, columns in strides:
        frames, height, width = frames * time - (time - 1), height * rows, width * columns
    return frames, height, width
