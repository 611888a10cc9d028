"""One worker a folder: a file that says who works there, left behind by the killed and taken over from them.

It is made exclusively, which also holds on shared file systems. Of a process on this machine one can see whether it is
alive; one elsewhere shows it by rewriting its file, so that no two machines' clocks need agree.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx_jax.errors import UserError

NAME = "lock.json"
BEAT, SILENT = 5.0, 60.0  # seconds between two signs of life; without one for so long an owner elsewhere is gone


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Within, no other process works in `folder`, which exists. Raises UserError naming the one that does."""
    path, token = folder / NAME, uuid.uuid4().hex
    _take(path, _owner(token))
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, token, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        if _read(path)[1].get("token") == token:
            path.unlink(missing_ok=True)


def _owner(token: str) -> dict[str, Any]:
    """This process, as others read of it. The time of the last sign of life comes last and is of one length."""
    process, now = os.getpid(), _now()
    return {
        "host": socket.gethostname(), "machine": _machine(), "process": process, "born": _born(process),
        "since": now, "token": token, "alive": now,
    }  # fmt: skip


def _take(path: Path, owner: dict[str, Any]) -> None:
    while True:
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(json.dumps(owner))
            return
        except FileExistsError:
            text, other = _read(path)
        except OSError as error:
            raise UserError(f"'{path.parent}' cannot be written ({error.strerror}); choose another folder.") from None
        if text is None:
            continue
        if _is_gone(path, text, other):
            _take_away(path, text)
        elif other and _read(path)[1].get("token") == other["token"]:
            raise UserError(
                f"'{path.parent}' is in use: process {other['process']} on {other['host']} has worked there since "
                f"{other['since']}; wait for it, stop it, or choose another folder."
            )


def _is_gone(path: Path, text: str, other: dict[str, Any]) -> bool:
    """Whether the owner of a lock file of this content works no more; False also where the file changes meanwhile."""
    if other and other["machine"] == _machine():
        return not _alive(other["process"], other["born"])
    end, told = time.monotonic() + SILENT, time.monotonic() + 1  # a file being made is whole in less than a second
    while time.monotonic() < end:
        if told and time.monotonic() > told:
            who, told = f"process {other['process']} on {other['host']}" if other else "another process", 0.0
            print(f"note: waiting for a sign of life of {who} in '{path.parent}', {SILENT:g} s", file=sys.stderr)
        time.sleep(min(1.0, SILENT / 100))
        if _read(path)[0] != text:
            return False
    return True


def _take_away(path: Path, text: str) -> None:
    """Remove the lock file whose content is `text`, not one that another process has made in the meantime."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if aside.read_text(encoding="utf-8", errors="replace") != text and not path.exists():
            aside.rename(path)
        aside.unlink(missing_ok=True)


def _beat(path: Path, token: str, stop: threading.Event) -> None:
    """Show that this process is alive until told to stop. Taken over while it stood still, it ends at once."""
    while not stop.wait(BEAT):
        owner = _read(path)[1]
        if owner and owner["token"] != token:
            print(f"error: '{path.parent}' was taken over by process {owner['process']} on {owner['host']} while this "
                  "one stood still.", file=sys.stderr, flush=True)  # fmt: skip
            os._exit(2)
        if owner:
            with contextlib.suppress(OSError), open(path, "r+", encoding="utf-8") as file:
                file.write(json.dumps(owner | {"alive": _now()}))


def _read(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Content and owner; None for no file, and no owner where it is not written to its end."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, {}
    try:
        owner = json.loads(text)
    except json.JSONDecodeError:
        owner = None
    return text, owner if isinstance(owner, dict) and "alive" in owner else {}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")


def _machine() -> str:
    """What numbers processes: a host since its start, or a container on it."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(found)


def _alive(process: int, born: str | None) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but there
    return born is None or born == _born(process)


def _born(process: int) -> str | None:
    """When the process began, in the kernel's ticks: a number that was given anew is another process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
