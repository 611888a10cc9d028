"""The index of a folder or list of videos: every file probed once, the bad ones said, the result hashed and kept."""

import csv
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from ltx_jax.errors import UserError
from ltx_jax.media.video import VideoInfo, probe

ENDINGS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".gif", ".ts", ".wmv", ".flv"}
VIDEO_COLUMNS, CAPTION_COLUMN = ("video", "media_path"), "caption"  # spec training.md 7.2


@dataclasses.dataclass(frozen=True)
class Entry:
    """One readable video: its path, caption ("" where there is none), and what it says of itself."""

    path: str
    caption: str
    info: VideoInfo


@dataclasses.dataclass(frozen=True)
class Index:
    """Readable videos in order of their paths; rejected: path and reason. fingerprint: hash of all of it."""

    entries: tuple[Entry, ...]
    rejected: tuple[tuple[str, str], ...]
    fingerprint: str


def build_index(
    path: str, accept: Callable[[VideoInfo], str | None], workdir: Path | None = None, progress: bool = True
) -> Index:
    """Probe every video at `path` (a folder, searched through, or a CSV or JSONL list).

    accept: a reason to reject a readable file, or None. Rejected files are named with their reason, counted, and
    listed at the end; captions that are missing are counted. With `workdir` the index is kept in data_index.json.
    Raises UserError when the path does not exist, holds no video, or none is readable.
    """
    files = list(listed_videos(Path(path)))
    if not files:
        raise UserError(f"There is no video in '{path}'; give a folder of video files or a CSV or JSONL list of them.")
    entries, rejected = [], []
    for file, caption in tqdm(files, desc="probing videos", unit="file", disable=not progress or len(files) < 50):
        try:
            info = probe(file)
            reason = accept(info)
        except UserError as error:
            info, reason = None, str(error)
        if info is None or reason is not None:
            rejected.append((str(file), reason or ""))
            print(f"skipped {file}: {reason}", file=sys.stderr)
        else:
            entries.append(Entry(str(file), caption, info))
    _say(entries, rejected)
    if not entries:
        raise UserError(f"None of the {len(files)} files in '{path}' is a readable video; the reasons are above.")
    index = Index(tuple(entries), tuple(rejected), _fingerprint(entries))
    if workdir is not None:
        _keep(index, workdir)
    return index


def _say(entries: list[Entry], rejected: list[tuple[str, str]]) -> None:
    silent = sum(not e.info.has_audio for e in entries)
    blank = sum(not e.caption for e in entries)
    print(f"{len(entries)} videos: {blank} without a caption, {silent} without sound", file=sys.stderr)
    if rejected:
        names = ", ".join(Path(path).name for path, _ in rejected)
        print(f"{len(rejected)} files skipped: {names}", file=sys.stderr)


def listed_videos(path: Path) -> Iterator[tuple[Path, str]]:
    """File and caption of every video at `path`: a folder, searched through, a CSV, JSON or JSONL list, or one file.

    Raises UserError when the path does not exist or the list cannot be read; the files themselves are not looked at.
    """
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS):
            yield file, _sidecar(file)
    elif not path.exists():
        raise UserError(f"There is no folder or list '{path}'.")
    elif path.suffix.lower() in (".csv", ".jsonl", ".json"):
        for number, row in enumerate(_rows(path), 1):
            name = next((row[c] for c in VIDEO_COLUMNS if row.get(c)), None)
            if name is None:
                raise UserError(f"Row {number} of '{path}' names no video; it needs a column 'video' or 'media_path'.")
            file = path.parent / str(name)
            yield file, str(row.get(CAPTION_COLUMN) or "") or _sidecar(file)
    else:
        yield path, _sidecar(path)


def _rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix.lower() == ".csv":
            return list(csv.DictReader(text.splitlines()))
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(x) for x in text.splitlines() if x.strip()]
    except (json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read as a list of videos ({error}).") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"'{path}' must hold a list of objects, one per video.")
    return rows


def _sidecar(file: Path) -> str:
    text = file.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""


def _fingerprint(entries: list[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.path}|{os.path.getsize(entry.path)}|{entry.caption}|{entry.info}\n".encode())
    return digest.hexdigest()[:16]


def _keep(index: Index, workdir: Path) -> None:
    record = {
        "fingerprint": index.fingerprint,
        "videos": [{"path": e.path, "caption": e.caption, **dataclasses.asdict(e.info)} for e in index.entries],
        "rejected": [{"path": path, "reason": reason} for path, reason in index.rejected],
    }
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "data_index.json").write_text(json.dumps(record, indent=1))
