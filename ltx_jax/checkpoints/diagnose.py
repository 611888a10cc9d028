"""What is wrong with files that do not make a model, in sentences, before anything is allocated."""

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from ltx_jax.checkpoints.catalog import COMPONENTS, Catalog
from ltx_jax.checkpoints.recognise import FEATURES, described, is_lora
from ltx_jax.checkpoints.safetensors import Tensors, listed
from ltx_jax.checkpoints.tables import part_shapes
from ltx_jax.errors import UserError, require
from ltx_jax.models.text.config import Gemma4Config
from ltx_jax.names import towers
from ltx_jax.names.connectors import FEATURES_PREFIX
from ltx_jax.parts import OPTIONAL, parts_of
from ltx_jax.releases import Release

REQUIRED = tuple(part for name, parts in COMPONENTS.items() if name not in OPTIONAL for part in parts)
# Tensors of published files and repacks that no network reads.
_UNREAD = re.compile(
    r"(.*\.)?per_channel_statistics\.(channel|mean-of-stds.*)|vae\.decoder\.type_emb|(.*\.)?lm_head\.weight"
    r"|tokenizer_json|hf_asset__.*|spiece_model|(model|language_model)\.rotary_emb\..*|.*\.inv_freq"
    r"|vocoder\.resampler\.filter"
)


def check_parts(catalog: Catalog) -> None:
    """Raise UserError where a part that every model has is missing, and say what is there instead."""
    missing = [part for part in REQUIRED if part not in catalog.parts]
    if not missing:
        return
    sources = catalog.sources()
    if not sources:
        seen = next(iter(catalog.ignored), None)
        where = f"'{seen.path}' holds {described(seen)}" if seen is not None else "There are no weights"
        raise UserError(f"{where}, and no model: {_advice(seen)}.")
    names = [name for name, parts in COMPONENTS.items() if any(part in missing for part in parts)]
    if names == ["text_encoder"] and "text" in missing:
        raise UserError(
            f"There is no text encoder beside '{sources[0].path}' (a folder with config.json, tokenizer.json and "
            "weights); give --text_encoder=FOLDER."
        )
    held = " and ".join(dict.fromkeys(f"'{s.path}' holds {described(s)}" for s in sources))
    raise UserError(f"{held}, which is no whole model: give the rest as {', '.join(f'--{n}_path' for n in names)}.")


def _advice(seen: Tensors | None) -> str:
    if seen is not None and is_lora(seen):
        return "give it as --lora, and the model that it adapts as --checkpoint"
    return "give the file or folder of an LTX-2 model"


def check_tensors(catalog: Catalog, release: Release, parts: Container[str] | None = None) -> None:
    """Raise UserError for tensors that are missing, of another shape or unused, naming the first ten of them.

    parts: to look at alone; then nothing is unused.
    """
    used: dict[int, set[str]] = {}
    for part in parts_of(release):
        if parts is not None and part.name not in parts:
            continue
        prefix = catalog.parts[part.name].prefix
        spared = {prefix + o for name in part.names_of(release) if name.optional for o in name.officials()}
        for tensors, wanted in _wanted(catalog, release, part.name):
            wanted = {name: shape for name, shape in wanted.items() if name in tensors or name not in spared}
            used.setdefault(id(tensors), set()).update(wanted)
            missing = [name for name in wanted if name not in tensors]
            if missing:
                raise UserError(
                    f"'{tensors.path}' lacks {len(missing)} of the {len(wanted)} tensors of the {part.name}: "
                    f"{listed(missing)}; it is of another model or incomplete."
                )
            wrong = [name for name, shape in wanted.items() if tensors.shape(name) != shape]
            if wrong:
                raise UserError(
                    f"'{tensors.path}' has {len(wrong)} tensors of the {part.name} in shapes that do not fit its "
                    f"configuration: {_compared(tensors, wanted, wrong)}."
                )
            strange = [n for n in wanted if tensors.dtype(n).kind in "iub"]
            require(
                not strange,
                f"'{tensors.path}' stores weights of the {part.name} as whole numbers ({listed(strange)}), without "
                "scales: it is damaged or quantised in a way that is not read.",
            )
    gates = {gate for part in parts_of(release) for name in part.names_of(release) for gate in name.gates() if gate}
    for tensors in catalog.sources() if parts is None else ():
        own = used.get(id(tensors), set())
        unused = [name for name in tensors if name not in own and not _unread(name, tensors, catalog, gates)]
        require(
            not unused,
            f"'{tensors.path}' has {len(unused)} tensors that its configuration has no place for: {listed(unused)}; it "
            "is of another model, or altered.",
        )


def _compared(tensors: Tensors, wanted: Mapping[str, tuple[int, ...]], names: list[str]) -> str:
    shown = [f"'{name}' is {tensors.shape(name)} instead of {wanted[name]}" for name in names[:10]]
    return ", ".join(shown) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _wanted(catalog: Catalog, release: Release, part: str) -> Iterator[tuple[Tensors, dict[str, tuple[int, ...]]]]:
    """Whole names and shapes of a part's tensors, by where they lie."""
    shapes, held = part_shapes(release, part), catalog.parts[part]
    if part != "connectors":
        yield held.tensors, {held.prefix + name: shape for name, shape in shapes.items()}
        return
    for where, own in ((catalog.parts[FEATURES], True), (held, False)):
        yield where.tensors, {n: s for n, s in shapes.items() if n.startswith(FEATURES_PREFIX) == own}


def _unread(name: str, tensors: Tensors, catalog: Catalog, gates: set[str]) -> bool:
    """Whether a tensor may be there: known to be read by nothing, or of a part that is taken from another file."""
    if name.startswith(towers.PREFIXES) or _UNREAD.fullmatch(name):
        return True
    if any(name == held.prefix + gate for held in catalog.parts.values() for gate in gates):
        return True
    elsewhere = (h for part, h in catalog.parts.items() if h.tensors is not tensors)
    return any(h.prefix and name.startswith(h.prefix) for h in elsewhere)


def check_pairing(catalog: Catalog, text: Mapping[str, Any] | None, release: Release) -> None:
    """Raise UserError where the text encoder is not that of the transformer's release (spec gemma.md section 7).

    text: its config.json. Releases from 2.4 on have a Gemma 4, those before a Gemma 3; what we trained has either.
    """
    main, encoder = catalog.parts["transformer"].tensors, catalog.parts["text"].tensors
    source, given = main.json("gemma_source_checkpoint"), (text or {}).get("gemma_version")
    if isinstance(source, dict) and source.get("gemma_version"):
        require(
            source["gemma_version"] == given,
            f"'{main.path}' was trained with the text encoder {source['gemma_version']}, but '{encoder.path}' is "
            f"{given or 'another one'}: give that of its release with --text_encoder.",
        )
    elif "ltx_jax" not in main.metadata:
        newer = [int(n) for n in re.findall(r"\d+", release.version)[:2]] >= [2, 4]
        require(
            isinstance(release.text, Gemma4Config) == newer,
            f"'{main.path}' is of release {release.version}, whose text encoder is a Gemma {4 if newer else 3}, but "
            f"'{encoder.path}' is a Gemma {3 if newer else 4}: give that of its release with --text_encoder.",
        )
    wanted, width = release.connectors.hidden_size, release.text.hidden_size
    require(
        wanted == width,
        f"'{main.path}' reads a text encoder of width {wanted}, but '{encoder.path}' is {width} wide: they are of "
        "different models; give that of its release with --text_encoder.",
    )
