"""Files of the Hugging Face hub, named `hf:ORG/NAME[/FILE][@REVISION]`: downloaded once, into the hub's own cache."""

import os
import re
from pathlib import Path
from typing import Any

from ltx_jax.errors import UserError

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<repo>[^/@]+/[^/@]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>.+))?")
_NEEDED = ["*.safetensors", "*.json", "*.jinja"]


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path, or where the files that an `hf:` name means lie on this machine. Raises UserError where there are none.

    Of a whole repository the diffusers pipeline is taken; of one that is none, a file must be named.
    """
    text = os.fspath(path)
    if not text.startswith(PREFIX):
        return Path(text)
    found = _NAME.fullmatch(text)
    if found is None:
        raise UserError(f"'{text}' names no file of the hub: write hf:ORG/NAME/FILE, or hf:ORG/NAME@REVISION.")
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError("Names of the hub need huggingface_hub: pip install 'ltx-jax[hub]'.") from None
    try:
        return Path(_fetch(huggingface_hub, found["repo"], found["file"], found["revision"]))
    except huggingface_hub.errors.GatedRepoError:
        raise UserError(
            f"The repository {found['repo']} is gated: accept its terms at https://huggingface.co/{found['repo']}, "
            "then log in with `hf auth login` (or set HF_TOKEN)."
        ) from None
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise UserError(
            f"The hub has no repository {found['repo']}, or it is private: check its name, or log in with "
            "`hf auth login`."
        ) from None
    except huggingface_hub.errors.RevisionNotFoundError:
        raise UserError(f"{found['repo']} has no revision '{found['revision']}'.") from None
    except huggingface_hub.errors.LocalEntryNotFoundError:
        raise UserError(f"'{text}' is not in the hub's cache, and the hub cannot be reached.") from None
    except huggingface_hub.errors.EntryNotFoundError:
        raise UserError(f"{found['repo']} has no file '{found['file']}'.") from None
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise UserError(f"'{text}' cannot be fetched ({str(error).splitlines()[0]}).") from None


def _fetch(hub: Any, repo: str, file: str | None, revision: str | None) -> str:
    """The file; for a folder or an index of shards, the folder with all of it."""
    if file is None:
        try:
            hub.hf_hub_download(repo, "model_index.json", revision=revision)
        except hub.errors.EntryNotFoundError as error:
            if isinstance(error, hub.errors.LocalEntryNotFoundError):
                raise
            raise UserError(f"{repo} is no diffusers pipeline: name one of its files, as in hf:{repo}/FILE.") from None
        patterns = ["model_index.json", *(f"*/{name}" for name in _NEEDED)]
        return hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
    if not file.endswith((".safetensors", ".json")):
        patterns = [f"{file.rstrip('/')}/{name}" for name in _NEEDED]
        return os.path.join(hub.snapshot_download(repo, revision=revision, allow_patterns=patterns), file.rstrip("/"))
    path = hub.hf_hub_download(repo, file, revision=revision)
    if file.endswith(".index.json"):
        hub.snapshot_download(repo, revision=revision, allow_patterns=[f"{os.path.dirname(file)}*.safetensors"])
    return path
