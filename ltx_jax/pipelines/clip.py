"""A finished clip: frames, sound, where it came from, and how it reaches the disk."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ltx_jax.errors import UserError, require
from ltx_jax.media.images import contact_sheet
from ltx_jax.media.video import ENDINGS, write_video

STILLS = 9  # frames of a clip on a contact sheet


class Clip:
    """Frames uint8 (F, h, w, 3) at `fps`, sound float32 (2, samples) in [-1, 1] at `sample_rate` Hz, and metadata.

    video: the frames, or a function that decodes them piece by piece, (f, h, w, 3) each; a long clip is of this kind,
    and `save` holds one piece at a time. metadata: strings that say how the clip was made; they are written into files.
    """

    def __init__(
        self,
        video: np.ndarray | Callable[[], Iterator[np.ndarray]],
        fps: float,
        audio: np.ndarray,
        sample_rate: int,
        metadata: Mapping[str, str] | None = None,
        *,
        num_frames: int | None = None,
    ):
        self._video, self.fps, self.audio, self.sample_rate = video, fps, audio, sample_rate
        self.metadata = dict(metadata or {})
        self.num_frames = len(video) if isinstance(video, np.ndarray) else num_frames
        self._stills: np.ndarray | None = None

    @property
    def video(self) -> np.ndarray:
        """All frames in memory, uint8 (F, h, w, 3); decoded at the first use and kept."""
        if not isinstance(self._video, np.ndarray):
            self._video = np.concatenate(list(self._video()))
        return self._video

    def frames(self) -> Iterator[np.ndarray]:
        """The frames one by one, (h, w, 3) uint8, decoded as they are asked for."""
        if isinstance(self._video, np.ndarray):
            yield from self._video
            return
        for piece in self._video():
            yield from piece

    def stills(self) -> np.ndarray:
        """Some frames, evenly spread, the first and the last among them: what a contact sheet shows of the clip."""
        if self._stills is None:
            for _ in self._kept():
                pass
        assert self._stills is not None
        return self._stills

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write H.264 and AAC to `path`; the file appears whole or not at all.

        Raises UserError for an ending that is no video, and when the disk does not take the file.
        """
        return write_video(path, self._kept(), self.fps, self.audio, self.sample_rate, self.metadata)

    def contact_sheet(self, path: str | os.PathLike[str]) -> Path:
        """Write some frames side by side as a PNG."""
        return contact_sheet([self.stills()], path)

    def _kept(self) -> Iterator[np.ndarray]:
        """`frames`; once all have passed, `stills` has its own, so that a clip is not decoded twice for them."""
        assert self.num_frames is not None
        wanted = set(np.linspace(0, self.num_frames - 1, min(STILLS, self.num_frames)).round().astype(int).tolist())
        stills = []
        for i, frame in enumerate(self.frames()):
            if i in wanted:
                stills.append(frame)
            yield frame
        self._stills = np.stack(stills)


def check_outputs(path: str, clips: int, sheet: str | None = None) -> list[Path]:
    """Paths of `clips` videos at `path`, numbered when there are several, in a folder that can be written.

    sheet: path of a contact sheet, checked as well. Raises UserError for what would fail after all is computed.
    """
    target = Path(path)
    require(
        target.suffix.lower() in ENDINGS,
        f"The output '{path}' is no video: its name must end in {', '.join(ENDINGS)}.",
    )
    _check_place(target)
    if sheet is not None:
        require(Path(sheet).suffix.lower() == ".png", f"The picture '{sheet}' must end in .png.")
        _check_place(Path(sheet))
    if clips == 1:
        return [target]
    return [target.with_name(f"{target.stem}_{i:03d}{target.suffix}") for i in range(clips)]


def _check_place(target: Path) -> None:
    require(not target.is_dir(), f"The output '{target}' is a folder; give the name of a file.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise UserError(f"Nothing can be written in the folder '{target.parent}': {error.strerror}.") from None


def save_all(clips: Iterator[Clip], paths: Sequence[Path], *, write: bool = True) -> Iterator[Clip]:
    """Every clip once it is in its file; clips are made as they are asked for.

    write: whether this process is the one that writes; the others only take part in decoding. Raises
    UserError naming the files that are finished when a later clip fails.
    """
    done: list[str] = []
    try:
        for clip, path in zip(clips, paths, strict=True):
            if write:
                done.append(str(clip.save(path)))
            else:
                clip.stills()
            yield clip
    except UserError as error:
        kept = f" Finished and kept: {', '.join(done)}." if done else ""
        raise UserError(f"{error}{kept}") from error
