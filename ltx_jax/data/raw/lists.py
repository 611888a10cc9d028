"""A list of videos and captions as people have it: CSV of any dialect, JSON, JSON lines.

A caption is read whole or its row is refused: a comma without quotes would cut it, a line break would split it.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx_jax.data.raw.folders import is_video
from ltx_jax.errors import UserError, require
from ltx_jax.files import read_text, shown

VIDEO_COLUMNS, CAPTION_COLUMN = ("video", "media_path"), "caption"  # spec training.md 7.2
TABLES, OBJECTS = (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
DELIMITERS = ",;\t|"


def is_list(path: Path) -> bool:
    """Whether a file's name ends like a list's."""
    return path.suffix.lower() in TABLES + OBJECTS


def rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(video, caption, where) of every row; where names the row for messages, a caption that is missing is "".

    Raises UserError, naming the row, where one cannot be read as it was meant.
    """
    text = read_text(path)
    table = path.suffix.lower() in TABLES
    for number, row in enumerate(_table(text, path) if table else _objects(text, path), 1):
        where = _where(number, path)
        names = [row[column] for column in VIDEO_COLUMNS if row.get(column)]
        require(
            bool(names) and isinstance(names[0], str),
            f"{where} names no video; it needs a column 'video' or 'media_path' with a file's name.",
        )
        yield names[0], _caption(row.get(CAPTION_COLUMN), where), where


def _where(number: int, path: Path) -> str:
    return f"Row {number} of '{shown(path)}'"


def _caption(value: Any, where: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    if isinstance(value, list):
        raise UserError(
            f"{where} has {len(value)} captions; give each a row of its own, with the same video, or keep one."
        )
    require(isinstance(value, str), f"{where} has a caption that is no text: {json.dumps(value)}.")
    broken = any("\ud800" <= c <= "\udfff" for c in value)
    require(not broken, f"{where} has a caption with half a character in it (a lone surrogate); write it anew.")
    return value.strip()


def _table(text: str, path: Path) -> Iterator[dict[str, Any]]:
    """Rows below the header by column; blank rows are passed over."""
    delimiter, text = _dialect(text, path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    records = _filled(reader, path)
    header = [name.strip().lower() for name in next(records, [])]
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    require(not twice, f"The header of '{shown(path)}' has {twice[:1]} twice; keep one column of that name.")
    for number, cells in enumerate(records, 1):
        where, sign = _where(number, path), "tab" if delimiter == "\t" else delimiter
        require(
            len(cells) == len(header),
            f"{where} has {len(cells)} columns where the header has {len(header)}; a caption with a '{sign}' or a line "
            'break in it needs quotes (") around it.',
        )
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if name}
        swallowed = any(_looks_like_a_row(line, delimiter) for c in cells if "\n" in c for line in c.split("\n"))
        require(not swallowed, f"{where} goes on over the next row: a quote in it is not closed.")
        yield row


def _filled(reader: Any, path: Path) -> Iterator[list[str]]:
    """Records that hold anything. Raises UserError naming the row where the quotes of one do not fit."""
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = _where(number, path) if number else f"The header of '{shown(path)}'"
            raise UserError(f'{where} cannot be read ({error}); a quote within quotes is written twice ("").') from None
        if any(cell.strip() for cell in cells):
            number += 1
            yield cells


def _looks_like_a_row(line: str, delimiter: str) -> bool:
    cells = line.split(delimiter)
    return len(cells) > 1 and (is_video(cells[0].strip()) or is_video(cells[-1].strip()))


def _dialect(text: str, path: Path) -> tuple[str, str]:
    """The delimiter, under which the first line names a column for videos, and the text without Excel's `sep=`."""
    text = text.lstrip("\n")
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first) == 5:
        return first[4], rest
    names = lambda d: [name.strip().strip('"').strip().lower() for name in first.split(d)]
    for delimiter in DELIMITERS:
        if set(names(delimiter)) & set(VIDEO_COLUMNS):
            return delimiter, text
    raise UserError(
        f"The first line of '{shown(path)}' is '{first[:80]}'; it must name the columns, 'video' (or 'media_path') and "
        "'caption'."
    )


def _objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON list, or of one object a line."""
    try:
        whole = json.loads(text, object_pairs_hook=_Pairs)
        values = whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        values = _lines(text, path)
    for number, value in enumerate(values, 1):
        where = _where(number, path)
        require(isinstance(value, _Pairs), f"{where} is no object; '{shown(path)}' must hold one object per video.")
        row = {name.strip().lower(): cell for name, cell in value}
        require(len(row) == len(value), f"{where} gives a value twice; keep one.")
        yield row


def _lines(text: str, path: Path) -> Iterator[Any]:
    number = 0
    for line in text.split("\n"):  # not splitlines: JSON may hold U+2028 and U+0085 within its strings
        if line.strip():
            number += 1
            try:
                yield json.loads(line, object_pairs_hook=_Pairs)
            except json.JSONDecodeError as error:
                raise UserError(f"{_where(number, path)} is not JSON ({error}).") from None


class _Pairs(tuple):
    """A JSON object as its pairs, so that a name that is given twice is seen."""
