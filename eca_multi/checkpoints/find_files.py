"""Find the files of released weights: in a repository of the Hugging Face hub, or in a folder with the same layout."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eca_multi._errors import NotInstalled, not_installed

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order of preference
CONFIG = "config.json"


@dataclass(frozen=True)
class Hub:
    """How to ask for a repository; the words are huggingface_hub's own."""

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: str | bool | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class Files:
    """A file of weights, the config.json beside it if there is one, and the commit of both; "" without a repository."""

    weights: Path
    config: Path | None = None
    revision: str = ""


def find_files(name: str | os.PathLike[str], hub: Hub) -> Files:
    """Return the files of a local folder or file, or of a repository, downloaded unless the cache has them.

    Raises:
        ImportError: If a repository is needed and huggingface_hub is not installed.
        OSError: If there is no such folder or repository, or it has no weights, or the hub cannot be reached.
        ValueError: If the name can be no path and no repository.
    """
    place = Path(name)
    if place.is_dir():
        return _choose(str(name), lambda file: place / file if (place / file).is_file() else None)
    if place.is_file():
        return Files(place)
    if isinstance(name, os.PathLike) or place.is_absolute() or name[:1] in ".~" or "\\" in name:
        raise FileNotFoundError(f"name must be a folder that exists. Received: {os.fspath(name)!r}. Check the path.")
    commit = [hub.revision]  # later the commit of the first file, so that all files are of the same commit

    def get(file: str) -> Path | None:
        path = _download(name, file, commit[0], hub)
        if path is not None:
            commit[0] = path.parent.name  # the hub's cache has a folder for each commit
        return path

    files = _choose(name, get)
    return Files(files.weights, files.config, commit[0] or "")


def _choose(name: str, get: Callable[[str], Path | None]) -> Files:
    config = get(CONFIG)
    for file in WEIGHTS:
        if (weights := get(file)) is not None:
            return Files(weights, config)
    raise FileNotFoundError(
        f"name must have {' or '.join(WEIGHTS)}. Received: {name!r}, which has neither. "
        "Read another file with from_pretrained(file)."
    )


def _download(name: str, file: str, revision: str | None, hub: Hub) -> Path | None:
    """Return the path in the cache of a repository's file; None if the repository has no such file."""
    try:
        from huggingface_hub import errors, hf_hub_download
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise NotInstalled(not_installed(f"from_pretrained({name!r})", "huggingface_hub", "hub")) from error
    place = f"{name!r} at revision {revision!r}" if revision else repr(name)
    try:
        options = {**vars(hub), "revision": revision, "cache_dir": hub.cache_dir and os.fspath(hub.cache_dir)}
        return Path(hf_hub_download(name, file, **options))
    except errors.HFValidationError as error:
        raise ValueError(
            f"name must be a folder, a file, or a repository as in 'timm/ecaresnet50d.miil_in1k'. Received: {name!r}. "
            "There is no such folder, and it is no repository's name."
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(f"{place} asks for its terms to be accepted. Accept them, and pass token.") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"name must be a repository that exists. Received: {place}. Of a private one pass token."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"revision must be a branch, tag or commit. Received: {place}. Look at its history."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if not hub.local_files_only and not isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise ConnectionError(
                f"the hub cannot be reached for {place}, and {file} is not in the cache. Connect, or pass a folder."
            ) from error
        if file == WEIGHTS[-1]:
            raise FileNotFoundError(
                f"{place} must be in the cache when nothing may be downloaded. Received: no weights of it in "
                f"{os.fspath(hub.cache_dir) if hub.cache_dir else 'the usual cache'}. Download it once."
            ) from error
        return None
    except errors.EntryNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:
        raise ConnectionError(f"the hub broke off while {file} of {place} was read ({error}). Try again.") from error
