"""The index of a folder or list of videos: every file probed once, the bad ones said, the result hashed and kept."""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from ltx_jax.data.raw.folders import sidecar, videos_below
from ltx_jax.data.raw.lists import is_list, rows
from ltx_jax.errors import UserError
from ltx_jax.files import shown, write_json
from ltx_jax.media.video import VideoInfo, probe


@dataclasses.dataclass(frozen=True)
class Entry:
    """One readable video: its path, caption ("" where there is none), and what it says of itself."""

    path: str
    caption: str
    info: VideoInfo


@dataclasses.dataclass(frozen=True)
class Index:
    """Readable videos in order of their paths or of the list; rejected: path and reason. fingerprint: hash of all."""

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
    files, rejected = present_videos(Path(path))
    entries = []
    for file, caption in tqdm(files, desc="probing videos", unit="file", disable=not progress or len(files) < 50):
        try:
            info = probe(file)
            reason = accept(info)
        except UserError as error:
            info, reason = None, str(error)
        if info is None or reason is not None:
            rejected.append((str(file), reason or ""))
            print(shown(f"skipped {file}: {reason}"), file=sys.stderr)
        else:
            entries.append(Entry(str(file), caption, info))
    _say(entries, rejected)
    if not entries:
        raise UserError(f"None of the {len(rejected)} files in '{path}' is a readable video; the reasons are above.")
    index = Index(tuple(entries), tuple(rejected), _fingerprint(entries))
    if workdir is not None:
        _keep(index, workdir)
    return index


def _say(entries: list[Entry], rejected: list[tuple[str, str]]) -> None:
    silent = sum(not e.info.has_audio for e in entries)
    blank = sum(not e.caption for e in entries)
    print(f"{len(entries)} videos: {blank} without a caption, {silent} without sound", file=sys.stderr)
    if rejected:
        names = ", ".join(shown(Path(path).name) for path, _ in rejected)
        print(f"{len(rejected)} files skipped: {names}", file=sys.stderr)


def present_videos(path: Path) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    """(file, caption) of the videos at `path`, and (file, reason) of those that a list names but that are not there.

    Each reason names the row and is printed. Raises UserError as `listed_videos`, and when there is no video at all.
    """
    present, missing = [], []
    for file, caption, where in _listing(path):
        if where and not file.is_file():
            missing.append((str(file), f"{where} names '{shown(file)}', which is not there."))
            print(f"skipped: {missing[-1][1]}", file=sys.stderr)
        else:
            present.append((file, caption))
    if not present and not missing:
        raise UserError(
            f"There is no video in '{shown(path)}'; give a folder of video files or a CSV, JSON or JSONL list of them."
        )
    return present, missing


def listed_videos(path: Path) -> Iterator[tuple[Path, str]]:
    """File and caption of every video at `path`: a folder, searched through (`folders.py`), a CSV, JSON or JSONL list
    (`lists.py`), or one file.

    Raises UserError when the path does not exist or the list cannot be read; the files themselves are not looked at.
    """
    for file, caption, _ in _listing(path):
        yield file, caption


def _listing(path: Path) -> Iterator[tuple[Path, str, str]]:
    if path.is_dir():
        for file in videos_below(path):
            yield file, sidecar(file), ""
    elif not path.exists():
        raise UserError(f"There is no folder or list '{shown(path)}'.")
    elif is_list(path):
        for name, caption, where in rows(path):
            file = path.parent / name
            yield file, caption or sidecar(file), where
    else:
        yield path, sidecar(path), ""


def _fingerprint(entries: list[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        line = f"{entry.path}|{os.path.getsize(entry.path)}|{entry.caption}|{entry.info}\n"
        digest.update(os.fsencode(line))
    return digest.hexdigest()[:16]


def _keep(index: Index, workdir: Path) -> None:
    record = {
        "fingerprint": index.fingerprint,
        "videos": [{"path": e.path, "caption": e.caption, **dataclasses.asdict(e.info)} for e in index.entries],
        "rejected": [{"path": path, "reason": reason} for path, reason in index.rejected],
    }
    write_json(workdir / "data_index.json", record)
