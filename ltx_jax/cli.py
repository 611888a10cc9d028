"""What absl does not do: dashed and official spellings, flags with several values, mistakes as one sentence.

An entry point defines its absl flags, then calls `run(main)`. Exit codes: 0 done (also `--help`), 2 a mistake of the
user (one sentence on stderr, no traceback unless `--debug`), 130 interrupted, 141 the reader of the output is gone.
"""

import dataclasses
import difflib
import io
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from ltx_jax.checkpoints.catalog import COMPONENTS, WORDS
from ltx_jax.errors import UserError, require
from ltx_jax.models.quantized import KINDS
from ltx_jax.parallel import multihost
from ltx_jax.parallel.mesh import DTYPES
from ltx_jax.parallel.threads import make_room_for_collectives
from ltx_jax.pipelines.request import FIELDS as REQUEST

FLAGS = flags.FLAGS

# Spellings of the official command line -> ours (after dashes have become underscores).
OFFICIAL = {
    "output_path": "output",
    "checkpoint_path": "checkpoint",
    "distilled_checkpoint_path": "checkpoint",
    "text_encoder_path": "text_encoder",
    "gemma_root": "text_encoder",
    "duration_head": "duration_head_path",
    "prompt_enhancer_gemma_root": "prompt_enhancer",
    "distilled_lora": "lora",
    **{f.metadata["official"]: f.name for f in REQUEST if f.metadata["official"]},
}


def _numbers_of(field: dataclasses.Field) -> tuple[Any, ...]:
    """What numbers a flag takes, as in (float, float) or (int, ...); () where it takes none or one."""
    kind = next((t for t in typing.get_args(field.type) if typing.get_origin(t) is tuple), None)
    return typing.get_args(kind)


# Flags that may be followed by several values, and how many: --image PATH FRAME_IDX STRENGTH, --lora PATH STRENGTH, ...
_NUMBERS = {f.name: kinds for f in REQUEST if (kinds := _numbers_of(f))}
LISTS = [name for name, kinds in _NUMBERS.items() if Ellipsis in kinds]  # any number of values, also none
SEVERAL = {"image": 4, "lora": 2, **{name: len(kinds) for name, kinds in _NUMBERS.items() if name not in LISTS}}


def normalise(argv: Sequence[str]) -> list[str]:
    """Arguments as absl wants them: underscores, our names, several values joined by commas, `--config` first."""
    result: list[str] = []
    arguments = list(argv[1:])
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("--") or argument == "--":
            result.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        if not name.startswith("config."):
            name = name.replace("-", "_")
            name = OFFICIAL.get(name, name)
        if (name in SEVERAL or name in LISTS) and not equals:
            values: list[str] = []
            while arguments and not arguments[0].startswith("--") and len(values) < SEVERAL.get(name, len(argv)):
                values.append(arguments.pop(0))
            if values or name in LISTS:  # alone it is a switch: the planner's --lora
                equals, value = "=", ",".join(values)
        if name.startswith("config") and not equals and arguments:
            equals, value = "=", arguments.pop(0)
        if not equals and name in FLAGS and not FLAGS[name].boolean:  # absl would take the next flag for the value
            require(bool(arguments) and not arguments[0].startswith("--"), f"--{name} needs a value.")
            equals, value = "=", arguments.pop(0)
        result.append(f"--{name}{equals}{value}")
    # config_flags wants the file before its overrides
    config = [a for a in result if a.startswith("--config=")]
    return [argv[0], *config, *(a for a in result if not a.startswith("--config="))]


def positional(argv: Sequence[str], flag: str) -> list[str]:
    """Arguments whose values without a flag's name are values of `flag`."""
    named = lambda i: argv[i].startswith("-") or argv[i - 1] == "--config"
    return [argv[0], *(argv[i] if named(i) else f"--{flag}={argv[i]}" for i in range(1, len(argv)))]


def define_config() -> None:
    """Define `--config`; without it the toy configuration is used."""
    config_flags.DEFINE_config_file("config", None, "Configuration file, e.g. configs/toy.py (the default).")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


def define_request(*names: str) -> None:
    """Define a flag for every field of a request, or for those named; one not given means the release's default."""
    kinds = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    for field in REQUEST:
        if names and field.name not in names:
            continue
        flag, text = field.metadata["flag"] or field.name, field.metadata["help"]
        kind = next(t for t in (typing.get_args(field.type) or (field.type,)) if t is not type(None))
        if isinstance(field.default, tuple):
            flags.DEFINE_multi_string(flag, list(field.default), text)
        else:
            kinds.get(kind, flags.DEFINE_string)(flag, field.default, text)


def request_settings() -> dict[str, Any]:
    """What the flags of `define_request` say, by field."""
    found = {f.name: FLAGS[f.metadata["flag"] or f.name].value for f in REQUEST}
    for name, kinds in _NUMBERS.items():
        if found[name] is not None:
            found[name] = _numbers(name, found[name], kinds)
    return found


def _numbers(flag: str, value: str, kinds: tuple[Any, ...]) -> tuple[float, ...]:
    any_count, texts = Ellipsis in kinds, value.split(",") if value else []
    words = "whole numbers" if kinds[0] is int else "numbers"
    try:
        numbers = tuple(kinds[0](n) for n in texts)
    except ValueError:
        numbers, any_count = (), False
    count = "" if Ellipsis in kinds else f"{len(kinds)} "
    require(any_count or len(numbers) == len(kinds), f"--{flag} takes {count}{words}, not '{value}'.")
    return numbers


def define_files() -> None:
    """Define the flags of a model's files: one for all parts, and one for each component that may lie elsewhere."""
    text = "Weights: a file, a folder, an index of shards, or hf:ORG/NAME/FILE (default: the shipped toy)."
    flags.DEFINE_string("checkpoint", None, text)
    flags.DEFINE_string(
        "text_encoder", None, "Folder or file of the text encoder, where --checkpoint does not hold it."
    )
    for name in COMPONENTS:
        if name != "text_encoder":
            flags.DEFINE_string(f"{name}_path", None, f"File or folder of the {WORDS[name]}, if it lies elsewhere.")


def component_files() -> dict[str, str | None]:
    """What the flags of `define_files` say of components, by name."""
    return {name: FLAGS[f"{name}_path"].value for name in COMPONENTS if name != "text_encoder"}


def define_dtype() -> None:
    """Define the flag for the type that networks compute in."""
    text = "What networks compute in (default: bfloat16 on accelerators, float32 on a CPU)."
    flags.DEFINE_enum("dtype", None, list(DTYPES), text)


def define_storage() -> None:
    """Define the flags for how weights lie on the devices; see `models.storage.Storage`, which checks what is given."""
    kinds = "|".join(KINDS)
    flags.DEFINE_string("quantization", None, f"Linear layers in a byte a number: {kinds} (default: as in the file).")
    flags.DEFINE_string(
        "offload", None, "host: the transformer's layers wait in the host's memory, other parts leave the device."
    )


def define_cluster() -> None:
    """Define the flags of runs in several processes; in a known cluster none is needed."""
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where the cluster does not tell (docs/scale.md).")
    flags.DEFINE_integer("processes", 0, "Number of processes, beside --coordinator.")
    flags.DEFINE_integer("process_id", -1, "Number of this process, from 0, beside --coordinator.")


def join_cluster() -> None:
    """Join the other processes of this run, where there are any; before JAX is asked for devices."""
    multihost.start(FLAGS.coordinator, FLAGS.processes, FLAGS.process_id)


def default_config() -> str:
    """Path of the toy configuration: in the repository, or as installed with the package."""
    package = Path(__file__).parent
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / "toy.py").is_file():
            return str(folder / "toy.py")
    raise UserError("The toy configuration is not installed; give --config=FILE.")


def given(name: str) -> bool:
    """Whether the user gave the flag (rather than its default being used)."""
    return any(a.startswith(f"--{name}=") for a in _given)


_given: list[str] = []


def run(main: Callable[[], None], description: str, argv: Sequence[str] | None = None) -> None:
    """Parse the flags, run `main`, and exit with the right code; never shows a traceback for a user's mistake."""
    arguments = list(sys.argv if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of other bytes, as stderr shows them
    try:
        arguments = normalise(arguments)
        if any(a in ("--help", "-h", "--helpfull", "--helpshort") for a in arguments[1:]):
            print(_help(description, arguments[0]))
            sys.exit(0)
        _parse(arguments)
        make_room_for_collectives(os.environ)
        main()
    except UserError as error:
        if "--debug" in arguments:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        sys.exit(141)


def _parse(arguments: list[str]) -> None:
    _given[:] = arguments
    if not any(a.startswith("--config=") for a in arguments):
        arguments = [arguments[0], f"--config={default_config()}", *arguments[1:]]
    for argument in arguments:
        if argument.startswith("--config="):
            _check_config_file(argument.partition("=")[2])
    sys.argv = arguments  # config_flags looks for its overrides there
    try:
        rest = FLAGS(arguments, known_only=False)
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error.flagname)) from None
    except (KeyError, AttributeError) as error:  # an override of a key that the config does not have
        raise UserError(_unknown_key(arguments, str(error))) from None
    except (flags.Error, ValueError, TypeError, OSError) as error:
        raise UserError(_sentence(str(error))) from None
    except SyntaxError as error:
        raise UserError(f"The config file '{error.filename}' is no Python file (line {error.lineno}).") from None
    if len(rest) > 1:
        raise UserError(f"Unexpected argument '{rest[1]}': every setting is a flag, see --help.")


def _check_config_file(path: str) -> None:
    if not os.path.isfile(path):
        raise UserError(f"There is no config file '{path}'; see configs/ for those that exist.")


def _unknown_flag(name: str) -> str:
    if name.startswith("config."):
        return f"Unknown config key '{name}'; `--help` and the config file list the known ones."
    near = difflib.get_close_matches(name, list(FLAGS), n=1)
    return f"Unknown flag '--{name}'; " + (f"did you mean '--{near[0]}'?" if near else "see --help.")


def _unknown_key(arguments: list[str], text: str) -> str:
    found = re.search(r"[\w.]+", text)
    key = found.group() if found else "?"
    given = next((a.partition("=")[0][2:] for a in arguments if key in a.partition("=")[0].split(".")), key)
    near = text.partition("Did you mean ")[2].partition(" instead")[0].strip("\"'")
    return f"Unknown config key '{given}'; " + (f"did you mean '{near}'?" if near else "see the config file.")


def _sentence(text: str) -> str:
    if "Error whilst parsing config file" in text:  # a traceback follows; its last line says what is wrong
        return "The config file fails: " + text.strip().splitlines()[-1].strip().removeprefix(
            "ltx_jax.errors.UserError: "
        )
    if found := re.match(r"flag (--[\w.]+)=(.*): (?:invalid literal for int|could not convert string to float)", text):
        return f"{found[1]} takes a number, not '{found[2]}'."
    first = next((line.strip().strip('"') for line in text.splitlines() if line.strip()), "unreadable arguments")
    return first if first.endswith((".", "?")) else first + "."


def _help(description: str, program: str) -> str:
    lines = [description.strip(), "", f"usage: python {os.path.basename(program)} [flags]", ""]
    own = FLAGS.flags_by_module_dict()
    for module, members in own.items():
        if module.startswith(("absl", "ml_collections")) and module != "absl.app":
            continue
        for flag in members:
            if flag.name in ("help", "helpfull", "helpshort", "helpxml", "only_check_args", "pdb", "run_with_pdb"):
                continue
            default = "" if flag.default in (None, "", [], False) else f" (default: {flag.default})"
            lines.append(f"  --{flag.name}")
            lines.append(f"        {flag.help}{default}")
    lines += [
        "",
        "Any setting of the config file can be overridden: --config.mesh.fsdp=2 --config.data.path=FOLDER ...",
    ]
    return "\n".join(lines)
