"""How a request declares its fields: a default, a help text, and how the command line spells it."""

import dataclasses
from typing import Any


def setting(default: Any, text: str, *, flag: str | None = None, official: str | None = None, saved: bool = True):
    """A field with its help text; flag: its flag's name where that differs, official: the published spelling of the
    flag, saved: whether a clip's metadata holds it."""
    metadata = {"help": text, "flag": flag, "official": official, "saved": saved}
    return dataclasses.field(default=default, metadata=metadata)
