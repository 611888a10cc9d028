"""Videos to shards of latents, text features and metadata, grouped by bucket; may be killed and run again.

Three passes, each a journal that only grows: every file is looked at and cut into clips (plan.jsonl), every shard is
decoded, encoded and written (shards.jsonl), and index.json is written last. Which clip lies in which shard follows
from the first pass alone, and a shard appears whole or not at all, so that a run that was killed ends in the same
bytes as one that was not.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ltx_jax.config import to_mapping
from ltx_jax.data.buckets import Bucket
from ltx_jax.data.encoded.records import ENDING, Journal, write_shard
from ltx_jax.data.preparation.clips import Clip, ClipRules, Video
from ltx_jax.data.preparation.encode import Encoded
from ltx_jax.data.preparation.engines import Engine
from ltx_jax.data.raw.index import present_videos
from ltx_jax.errors import UserError, require
from ltx_jax.files import write_bytes, write_json
from ltx_jax.lock import NAME as LOCK
from ltx_jax.lock import working_in

IDENTITY, PLAN, SHARDS, INDEX, EMPTY = "prepare.json", "plan.jsonl", "shards.jsonl", "index.json", "empty.record"
FORMAT = 1
Encode = Callable[[Sequence[list[Clip]]], Iterator[Encoded]]


def prepare(
    source: str, output: Path, rules: ClipRules, engine: Engine, model: dict[str, str], *,
    batch: int, shard_clips: int = 256, settings: Mapping[str, Any] | None = None, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Prepare the videos at `source` (see `present_videos`) in the folder `output`; returns its index.

    model: identity of the encoders; settings: of the records, see `EncoderSpec.record_settings`. batch: clips encoded
    together, and a divisor of shard_clips, the clips of a shard.
    Raises UserError when there is no readable video, when `output` was begun with other settings or videos, and when
    another process prepares in it.
    """
    require(shard_clips % batch == 0, f"A shard of {shard_clips} clips is no multiple of the batch of {batch}.")
    videos, missing = _videos(Path(source))
    _make_folder(output)
    with working_in(output):
        _claim(output, rules, model, shard_clips, settings or {}, videos)
        plans = _plan(output / PLAN, videos, rules, engine, progress)
        shards = assign_shards([clip for plan in plans if not isinstance(plan, str) for clip in plan], shard_clips)
        if not shards:
            files = len(videos) + len(missing)
            raise UserError(f"None of the {files} files in '{source}' gives a clip; the reasons are above.")
        encode = functools.partial(engine.encode, sample_rate=rules.sample_rate)
        lines = write_shards(output, shards, encode, batch, progress)
        if not (output / EMPTY).is_file():
            write_bytes(output / EMPTY, engine.empty())
        failed = missing + [reason for reason in plans if isinstance(reason, str)]
        failed += [reason for line in lines for reason in line["failed"]]
        index = make_index(lines, failed, rules.sample_rate, model)
        require(index["clips"] > 0, f"None of the clips in '{source}' could be read; the reasons are above.")
        write_json(output / INDEX, index)
        return index


def _make_folder(output: Path) -> None:
    """Raises UserError when the folder holds something that is not of a preparation, or cannot be made."""
    if output.is_dir() and not (output / IDENTITY).is_file() and any(p.name != LOCK for p in output.iterdir()):
        raise UserError(f"The folder '{output}' holds something else; choose another --output.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder '{output}' cannot be made ({error.strerror}); choose another --output.") from None


def _videos(source: Path) -> tuple[list[Video], list[str]]:
    """The videos, and why others that a list names are not among them."""
    files, missing = present_videos(source)
    root = source if source.is_dir() else source.parent
    return [Video(str(f), os.path.relpath(f, root), caption) for f, caption in files], [reason for _, reason in missing]


def _claim(
    output: Path, rules: ClipRules, model: dict, shard_clips: int, settings: Mapping[str, Any], videos: Sequence[Video]
) -> None:
    """Note in the folder what it is of. Raises UserError when it is of something else."""
    size = lambda path: os.path.getsize(path) if os.path.isfile(path) else 0
    listing = json.dumps([[v.name, v.caption, size(v.path)] for v in videos])
    identity = {
        "format": FORMAT, "rules": to_mapping(rules), "shard_clips": shard_clips, "model": model,
        "videos": hashlib.sha256(listing.encode()).hexdigest(), **settings,
    }  # fmt: skip
    path = output / IDENTITY
    if path.is_file():
        earlier, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(identity))
        differing = sorted(key for key in {*now, *earlier} if now.get(key) != earlier.get(key))
        if differing:
            raise UserError(
                f"The folder '{output}' was prepared with other settings (its {', '.join(differing)} differ); choose "
                "another --output, or delete it."
            )
        return
    write_json(path, identity)


def _plan(
    path: Path, videos: Sequence[Video], rules: ClipRules, engine: Engine, progress: bool
) -> list[list[Clip] | str]:
    """The clips of every file, or why it has none; files that an earlier run looked at are not looked at again."""
    journal = Journal(path)
    known = len(journal.lines)
    results = engine.plan(videos[known:], rules)
    with tqdm(total=len(videos), initial=known, desc="cutting videos", unit="file", disable=not progress) as bar:
        for line in journal.lines:
            if "reason" in line:
                bar.write(f"skipped before: {line['reason']}", file=sys.stderr)
        for video, result in zip(videos[known:], results, strict=True):
            if isinstance(result, str):
                bar.write(f"skipped {result}", file=sys.stderr)
                journal.add({"file": video.name, "reason": result})
            else:
                clips = [{"bucket": dataclasses.asdict(c.bucket), "start": c.start} for c in result]
                journal.add({"file": video.name, "clips": clips})
            bar.update()
    return [_planned(video, line) for video, line in zip(videos, journal.lines, strict=True)]


def _planned(video: Video, line: dict[str, Any]) -> list[Clip] | str:
    if "reason" in line:
        return line["reason"]
    make = lambda c: Clip(video.path, video.name, video.caption, Bucket(**c["bucket"]), c["start"])
    return [make(clip) for clip in line["clips"]]


def assign_shards(clips: Iterable[Clip], shard_clips: int) -> dict[str, list[Clip]]:
    """The clips of every shard by its name, buckets in order of size."""
    groups: dict[Bucket, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.bucket].append(clip)
    return {
        f"{bucket.name}-{number:05d}{ENDING}": groups[bucket][start : start + shard_clips]
        for bucket in sorted(groups)
        for number, start in enumerate(range(0, len(groups[bucket]), shard_clips))
    }


def _whole(output: Path, line: dict[str, Any]) -> bool:
    path = output / line["name"]
    return path.is_file() and path.stat().st_size == line["bytes"]


def write_shards(
    output: Path, shards: Mapping[str, list[Clip]], encode: Encode, batch: int, progress: bool
) -> list[dict[str, Any]]:
    """Write the shards that are missing, and return what the journal says of each.

    encode: records of batches of clips, in order. What could not be read is said and noted.
    """
    for left in output.glob(f".*{ENDING}.*"):  # unfinished shards of a killed run
        left.unlink()
    journal = Journal(output / SHARDS)
    done = {line["name"]: line for line in journal.lines if _whole(output, line)}
    missing = {name: clips for name, clips in shards.items() if name not in done}
    cut = lambda clips: [clips[i : i + batch] for i in range(0, len(clips), batch)]
    results = encode([b for clips in missing.values() for b in cut(clips)])
    count = lambda shards: sum(map(len, shards.values()))
    bar = tqdm(
        total=count(shards), initial=count(shards) - count(missing), desc="encoding clips", unit="clip",
        disable=not (progress and missing),
    )  # fmt: skip
    with bar:
        for name, clips in missing.items():
            failed: list[str] = []
            line = write_shard(output / name, _records(itertools.islice(results, len(cut(clips))), failed, bar))
            journal.add({"name": name, "bucket": dataclasses.asdict(clips[0].bucket), **line, "failed": failed})
    lines = {line["name"]: line for line in journal.lines}
    return [lines[name] for name in shards]


def _records(results: Iterable[Encoded], failed: list[str], bar: tqdm) -> Iterator[bytes]:
    for encoded in results:
        for record in encoded:
            if isinstance(record, str):
                bar.write(f"skipped {record}", file=sys.stderr)
                failed.append(record)
            else:
                yield record
        bar.update(len(encoded))


def make_index(lines: Sequence[dict[str, Any]], failed: list[str], sample_rate: int, model: dict[str, str]) -> dict:
    """What index.json says, written last, of the journal's lines of all shards."""
    keep = ("name", "bucket", "records", "bytes", "sha256")
    shards = [{key: line[key] for key in keep} for line in lines]
    fingerprint = hashlib.sha256(json.dumps([FORMAT, shards], sort_keys=True).encode()).hexdigest()[:16]
    return {
        "format": FORMAT, "fingerprint": fingerprint, "model": model, "sample_rate": sample_rate,
        "clips": sum(line["records"] for line in lines), "shards": shards, "failed": failed,
    }  # fmt: skip


def summary(index: dict[str, Any], output: Path) -> str:
    """What was made, and the list of what was skipped, for people."""
    counts: dict[str, int] = defaultdict(int)
    for shard in index["shards"]:
        counts[Bucket(**shard["bucket"]).name] += shard["records"]
    lines = [f"{name:<24} {count} clips" for name, count in counts.items()]
    lines.append(f"{index['clips']} clips in {len(index['shards'])} shards in {output}")
    if index["failed"]:
        lines += [f"{len(index['failed'])} skipped:", *(f"  {reason}" for reason in index["failed"])]
    return "\n".join(lines)
