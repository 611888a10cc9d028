"""Small files, whole or absent: written beside their place and renamed; text read in whatever encoding it has.

Paths may lie on a disk or, through `etils.epath` (which Orbax uses as well), in a bucket: `gs://`, `s3://`. Names
whose bytes are no UTF-8 are kept as Python keeps them (surrogate escapes): `shown` prints them, `to_json` writes them
so that `json.loads` gives them back.
"""

import contextlib
import json
import os
import re
import sys
import unicodedata
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from typing import Any

from etils import epath

from ltx_jax.errors import UserError

PathLike = str | os.PathLike[str]

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {
    BOM_UTF8: "utf-8-sig",
    BOM_UTF32_LE: "utf-32",
    BOM_UTF32_BE: "utf-32",
    BOM_UTF16_LE: "utf-16",
    BOM_UTF16_BE: "utf-16",
}
# Signs of Windows-1252 that stand in Western prose, at the edge of a word or between words.
SIGNS = set("‘’‚“”„‹›«»–—…•·¡¿§°©®™€£¢¥±×÷½¼¾²³µ\xa0\xad")
INSIDE = set("’·\xad–—")  # of these, what may stand within a word

_guessed: set[str] = set()  # folders of files whose encoding was guessed


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write a file that is whole or absent, in a folder that is made if need be. Raises UserError where it cannot."""
    target = epath.Path(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):  # where the folder itself is what is wrong
            temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise UserError(f"'{shown(path)}' cannot be written ({reason}); free the place or name another one.") from None


def write_text(path: PathLike, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: PathLike, value: Any, indent: int | None = 1) -> None:
    """`write_bytes` of a value as JSON."""
    write_bytes(path, to_json(value, indent))


def to_json(value: Any, indent: int | None = None, separators: tuple[str, str] | None = None) -> bytes:
    """A value as JSON in UTF-8; names of other bytes become escapes that `json.loads` turns back."""
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def read_json(path: PathLike) -> Any:
    """The value of a JSON file of this package; raises FileNotFoundError, and UserError where it is no JSON."""
    try:
        return json.loads(epath.Path(path).read_bytes())
    except ValueError as error:
        raise UserError(f"'{shown(path)}' is damaged: it is not JSON ({error}).") from None


def read_text(path: PathLike) -> str:
    """A text file that people wrote, in whatever encoding (`decode`), with line breaks as newlines alone.

    Raises UserError where it cannot be read or where its encoding is not known.
    """
    try:
        data = epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"'{shown(path)}' cannot be read ({error.strerror or error}).") from None
    return decode(data, shown(path)).replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes, name: str) -> str:
    """Text from bytes: by its byte order mark, as UTF-8, as UTF-16 without a mark, or as Western Windows-1252.

    The last is a guess (Latin-1 is a part of it): it is said on stderr, once for a folder, and made only where every
    sign outside ASCII is what Western prose has there. name: the file's name for messages. Raises UserError where
    nothing fits, since text decoded wrongly would be learned wrongly.
    """
    encoding = next((e for mark, e in MARKS.items() if data.startswith(mark)), None) or _unmarked(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = ""
        if encoding == "utf-8":
            text, encoding = data.decode("cp1252", "ignore"), "Windows-1252"
            if text.encode("cp1252") != data or not _western(text):
                text = ""
            else:
                _say_guess(name)
    if "\0" in text or (data and not text):
        raise UserError(f"The encoding of the text in '{name}' is not known; save it as UTF-8.")
    return text.lstrip("\ufeff")  # joined files may have more than one mark


def shown(path: PathLike) -> str:
    """A path for people: bytes that are no UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _say_guess(name: str) -> None:
    """Say it once for a folder: captions beside videos are many."""
    if os.path.dirname(name) not in _guessed:
        _guessed.add(os.path.dirname(name))
        print(f"note: '{name}' is not in UTF-8; such files of its folder are read as Windows-1252", file=sys.stderr)


def _unmarked(data: bytes) -> str:
    """UTF-16 where many zero bytes stand on one side of the pairs, as in text with ASCII in it; else UTF-8."""
    even, odd = data[::2].count(0), data[1::2].count(0)
    if 8 * (even + odd) < len(data):
        return "utf-8"
    if odd > 4 * even:
        return "utf-16-le"
    if even > 4 * odd:
        return "utf-16-be"
    return "utf-8"


def _western(text: str) -> bool:
    """Whether text decoded as Windows-1252 reads like it.

    Other encodings (Cyrillic, Central European, East Asian) show as runs of accented letters and signs in words.
    """
    if re.search(r"[^\x00-\x7f]{4}|[\x00-\x08\x0e-\x1f\x7f]", text):
        return False
    for at, sign in enumerate(text):
        if sign < "\x80":
            continue
        before, after = text[at - 1 : at], text[at + 1 : at + 2]
        if unicodedata.category(sign) in ("Ll", "Lu"):
            if sign.isupper() and before.islower():
                return False  # a capital within a word
        elif sign not in SIGNS or (before.isalpha() and after.isalpha() and sign not in INSIDE):
            return False
    return True
