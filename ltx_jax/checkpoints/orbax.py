"""Training checkpoints: state, data position and configuration of one step together, written atomically by Orbax."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ltx_jax.errors import UserError

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every file at the info and warning levels


class Checkpoints:
    """The checkpoints of one training stage below `folder`, the newest `keep` of them.

    Saving copies the arrays to the host and goes on in the background; a step's folder gets its name only when all of
    it is written, so a process killed at any time leaves whole checkpoints alone.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self.folder = Path(folder).absolute()
        if jax.process_index() == 0:
            _remove_unfinished(self.folder)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The newest step that is saved, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: Any, config: Any) -> None:
        """Save `state` (a pytree of arrays), and `data` and `config` (JSON-able), as `step`."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data), config=ocp.args.JsonSave(config)
        )
        self._manager.save(step, args=items)

    def config(self, step: int) -> Any:
        """The configuration that `step` was saved with."""
        return self._restore(step, config=ocp.args.JsonRestore())["config"]

    def restore(self, step: int, abstract: Any) -> tuple[Any, Any]:
        """State and data position of `step`. abstract: the state's ShapeDtypeStructs with shardings.

        Raises UserError when the files are damaged or hold another state.
        """
        items = self._restore(step, state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        return items["state"], items["data"]

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"The checkpoint of step {step} in '{self.folder}' cannot be read ({reason}); delete its folder to go "
                "on from the one before."
            ) from error

    def wait(self) -> None:
        """Wait until what is being saved is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then let go of the folder."""
        self._manager.close()


def _remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left behind. (Orbax's own clean-up runs on and fails loudly at a quick exit.)"""
    for path in folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)


def save_weights(folder: str | os.PathLike[str], weights: Any) -> None:
    """Write a pytree of arrays as the folder `folder`, which appears whole or not at all; an old one is replaced."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder).absolute(), weights, force=True)


def stored_parts(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The first keys of what `save_weights` wrote. Raises UserError as `load_weights`."""
    with _reading(folder), ocp.StandardCheckpointer() as checkpointer:
        return tuple(checkpointer.metadata(Path(folder).absolute()).item_metadata.tree)


def load_weights(folder: str | os.PathLike[str], abstract: Any) -> Any:
    """Read what `save_weights` wrote, or only the part of it that `abstract` has.

    abstract: ShapeDtypeStructs, with shardings where the arrays go to devices; None for everything, as it was.
    Raises UserError when the folder is missing, damaged, or of another model.
    """
    with _reading(folder):
        if abstract is None:
            with ocp.StandardCheckpointer() as checkpointer:
                return checkpointer.restore(Path(folder).absolute())
        how = ocp.checkpoint_utils.construct_restore_args(abstract)
        with ocp.PyTreeCheckpointer() as checkpointer:
            found = checkpointer.restore(
                Path(folder).absolute(), ocp.args.PyTreeRestore(abstract, restore_args=how, partial_restore=True)
            )
    leaves = list(zip(jax.tree.leaves(found), jax.tree.leaves(abstract), strict=True))  # what is missing stays abstract
    if any(isinstance(x, jax.ShapeDtypeStruct) or x.shape != wanted.shape for x, wanted in leaves):
        raise UserError(f"The weights in '{folder}' are of another model.")
    return found


@contextlib.contextmanager
def _reading(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what Orbax says of a folder that cannot be read into a UserError."""
    if not Path(folder).is_dir():
        raise UserError(f"There are no trained weights in '{folder}'.")
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"The weights in '{folder}' cannot be read, or are of another model.") from error
