"""Commands of documents: found in the text, made smaller by rule, run in a folder that looks like the repository."""

import dataclasses
import fnmatch
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
LAUNCH = tuple(sorted(f"launch/{p.name}" for p in (ROOT / "launch").iterdir()))

# What may differ between a command as it is written and as it is run: sizes, steps, paths and topology.
SHRINKABLE = re.compile(
    r"config\.(mesh|model)\..+"
    r"|config\.data\.(path|frames|height|width|fps|size|workers)"
    r"|config\.training\.\w+\.(steps|batch_size|clips|window|segment|sample_every|checkpoint_every"
    r"|optimizer\.schedule\.warmup_steps|lora\.rank)"
    r"|steps|num_samples|num_frames|width|height|fps|resolutions|workers|prompts|layers|repeats|search_limit"
    r"|tokens|heads|topology|processes|input|output|contact_sheet|workdir|checkpoint|init_from|reconstruct|image|lora|aot|grid"
)
RESULTS = ("output", "contact_sheet", "workdir")  # flags that name what must exist afterwards


@dataclasses.dataclass(frozen=True)
class Small:
    """How a command is run. changes: flags that get another value, or that are added. paths: positional arguments that
    are replaced. devices: faked CPU devices. outputs: what must exist afterwards, beside what RESULTS name.
    """

    changes: Mapping[str, str | int] = dataclasses.field(default_factory=dict)
    paths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    devices: int = 1
    outputs: tuple[str, ...] = ()

    def __post_init__(self):
        for flag in self.changes:
            assert SHRINKABLE.fullmatch(flag), f"{flag} is no size, number of steps, path or topology"


def commands(page: str) -> list[str]:
    """Every command of a page, one line each; a block of Python as one text of many lines."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".yaml"):
        return [*_headed(text), *_containers(text)]
    return [*_in_markdown(text)] if page.endswith(".md") else [*_headed(text)]


def _in_markdown(text: str) -> Iterator[str]:
    variables: dict[str, str] = {}
    for language, block in _blocks(text):
        if language == "python":
            yield block
        elif language in ("", "bash", "sh") and not re.search("[─│►▼]", block):  # a picture is drawn with these
            for line in block.replace("\\\n", " ").splitlines():
                yield from _command(line, variables)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for found in re.findall(r"(?<!`)`(python [^`]+)`(?!`)", prose):
        if "..." not in found:  # what stands for any command
            yield " ".join(found.split())


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, text) of fenced blocks and of blocks that are indented by four spaces outside lists."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"(?:(?<=\n\n)|\A)((?: {4}.*(?:\n|\Z)|\n(?= {4}))+)", rest):
        yield "", textwrap.dedent(found[1])


def _command(line: str, variables: dict[str, str]) -> Iterator[str]:
    line = re.sub(r"\s#\s.*$", "", line).strip()
    assigned = re.fullmatch(r'([A-Z]\w*)="([^"]*)"', line)
    if assigned:
        variables[assigned[1]] = assigned[2]
    elif line and not line.startswith("#"):
        yield re.sub(r"\$(\w+)", lambda m: variables.get(m[1], m[0]), " ".join(line.split()))


def _headed(text: str) -> Iterator[str]:
    """Commands in the comments at the head of a file for a cluster: `# What it does: sbatch FILE`, or indented."""
    text = re.sub(r" \\\n# +", " ", text)
    yield from re.findall(r"^#(?:[^\n]*:| {4,}) ?((?:kubectl|sbatch) [^\n]*)$", text, re.MULTILINE)


def _containers(text: str) -> Iterator[str]:
    for document in yaml.safe_load_all(text):
        for job in document["spec"]["replicatedJobs"]:
            for container in job["template"]["spec"]["template"]["spec"]["containers"]:
                yield shlex.join(container["command"])


def matches(pattern: str, command: str) -> bool:
    """Whether a pattern of the table (`*` stands for anything) is this command's."""
    return fnmatch.fnmatchcase(command, pattern.replace("[", "[[]").replace("?", "[?]"))


def run(command: str, small: Small, folder: Path) -> None:
    """Run a command of Python in `folder`, smaller, and check that what it names has come to be."""
    if "\n" in command:
        arguments = ["-c", command]
    else:
        arguments = shrunk(command, small)
    flags = f"--xla_force_host_platform_device_count={small.devices}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, f"{command}\nrun as: python {shlex.join(arguments)}\n{done.stderr[-3000:]}"
    named = [a.partition("=")[2] for a in arguments if a.partition("=")[0].lstrip("-") in RESULTS]
    for output in (*named, *small.outputs):
        numbered = re.sub(r"(\.\w+)$", r"_[0-9]*\1", output)  # of several clips each has its number
        assert [*folder.glob(output), *folder.glob(numbered)], f"{command}\nmade no '{output}'"


def shrunk(command: str, small: Small) -> list[str]:
    """The arguments after `python`, with the changes of the table."""
    program, *arguments = shlex.split(re.sub(r"^.*&& \.venv/bin/", "", command))
    assert program == "python", f"no command of Python: {command}"
    result, left = [], dict(small.changes)
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        key = name.lstrip("-").replace("-", "_") if not name.startswith("--config.") else name[2:]
        if argument.startswith("--") and key in left:
            result.append(f"{name}={left.pop(key)}" if equals else name)
        else:
            result.append(small.paths.get(argument, argument))
    return [word for a in [*result, *(f"--{k}={v}" for k, v in left.items())] for word in _globbed(a)]


def _globbed(argument: str) -> list[str]:
    """What a shell makes of a pattern of files."""
    found = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(argument)) if "*" in argument else []
    return found or [argument]
