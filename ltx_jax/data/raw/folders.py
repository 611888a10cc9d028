"""A folder of videos as people have them: searched through, links followed, what no one put there left out."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ltx_jax.files import read_text, shown

ENDINGS = {
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".gif", ".ts", ".mts", ".m2ts", ".wmv", ".asf",
    ".m2t", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogg", ".mxf", ".vob",
}  # fmt: skip
# Trash and thumbnails of systems and of network storage; names that begin with a dot are left out anyway.
SYSTEM = {
    "$recycle.bin", "recycler", "recycled", "#recycle", "@recycle", "@eadir", "@tmp", "system volume information",
    "lost+found", "__macosx",
}  # fmt: skip


def is_video(name: str) -> bool:
    """Whether a file's name ends like a video's, in capitals or not."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden (`._a.mp4`, `.trash`) or a system's own."""
    return name.startswith(".") or name.lower() in SYSTEM


def videos_below(root: Path) -> list[Path]:
    """Every video below `root`, in order of its path.

    Links to files and to folders are followed. Every folder is searched once, so that links which lead back end, and a
    folder that is below `root` as well as linked gives its videos under its own name. Hidden entries and those of
    `SYSTEM` are left out and counted on stderr; links that lead nowhere and folders that may not be read are named.
    """
    found, left_out, seen = [], 0, set()
    waiting = [os.fspath(root)]  # folders themselves before the links to folders in them
    while waiting:
        links: list[str] = []
        for folder in waiting:
            for entry in _entries(folder, seen, links):
                if is_system(entry.name):
                    left_out += 1
                elif is_video(entry.name) and os.path.isfile(entry.path):
                    found.append(Path(entry.path))
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    target = shown(os.readlink(entry.path))
                    _say(f"left out '{shown(entry.path)}': it is a link to '{target}', which is not there")
        waiting = sorted(links)
    if left_out:
        _say(f"left out {left_out} hidden or system files and folders in '{shown(root)}'")
    return sorted(found)


def _entries(folder: str, seen: set[tuple[int, int]], links: list[str]) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder and those below it; folders that are links are collected in `links` instead."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda e: e.name)
    except OSError as error:
        _say(f"left out the folder '{shown(folder)}': {error.strerror}")
        return
    for entry in entries:
        if is_system(entry.name) or not os.path.isdir(entry.path):
            yield entry
        elif entry.is_symlink():
            links.append(entry.path)
        else:
            yield from _entries(entry.path, seen, links)


def sidecar(file: Path) -> str:
    """The caption in the text file beside a video (or, for a link without one, beside what it leads to); "" for none.

    Raises UserError where the text's encoding is not known.
    """
    for video in (file, file.resolve()) if file.is_symlink() else (file,):
        for ending in (".txt", ".TXT"):
            text = video.with_suffix(ending)
            if text.is_file():
                return read_text(text).strip()
    return ""


def _say(text: str) -> None:
    print(text, file=sys.stderr)
