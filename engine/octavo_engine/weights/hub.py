"""Models of the Hugging Face hub, through huggingface_hub and in its cache: `hf://ORG/NAME[@REVISION]`.

Only what serving needs is fetched: config, tokenizer, and either the safetensors or one GGUF. The token comes from
HF_TOKEN, the hub's address from HF_ENDPOINT. Where the hub can't be reached or fails, what its cache holds is served
with a warning; where it refuses (401, 403, 404, 429), nothing is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from tqdm.std import tqdm  # type: ignore[import-untyped]

from octavo_engine.config import ModelConfig, ModelFiles
from octavo_engine.errors import ModelLoadError, first_line
from octavo_engine.weights.cache import Report, cache_folder
from octavo_engine.weights.folder import INDEX, files_of_folder, files_of_gguf, names_gguf
from octavo_engine.weights.json_files import read_shard_names
from octavo_models.gguf_pieces import first_pieces, piece_names

logger = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # its lines are of requests, with signed addresses

CONNECTIONS = 4
# Where images that run as root have it, vLLM's among them: Deployments written for them mount their volume there.
HOME_OF_ROOT = Path("/root/.cache/huggingface/hub")
COMMIT = re.compile(r"[0-9a-f]{40}")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SMALL_FILES = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}
MODULE_FILE = re.compile(r"\d+_\w+/(?:config\.json|model\.safetensors)")  # of sentence-transformers


def fetch_from_hub(name: str, model: ModelConfig, report: Report) -> ModelFiles:
    """The files of model `name` (ORG/NAME or ORG/NAME@REVISION), fetched where the cache lacks them.

    Raises:
        ModelLoadError: there is no such model or revision, it is gated, or the hub can't be reached and the cache
            lacks it; says what to do.
    """
    return _named(_Fetch, name, model, report).files()


def fetch_adapter_from_hub(name: str, model: ModelConfig, report: Report) -> Path:
    """The folder with a low-rank adapter of that name. Raises as `fetch_from_hub`."""
    return _named(_AdapterFetch, name, model, report).files().folder


def _named(fetch: type[_Fetch], name: str, model: ModelConfig, report: Report) -> _Fetch:
    repo, _, at = name.partition("@")
    if at and model.revision and at != model.revision:
        raise ModelLoadError(f"hf://{name}: --revision says {model.revision}; name one revision")
    revision = at or model.revision
    if revision is not None and ".." in revision:
        raise ModelLoadError(f"hf://{repo}: {revision} is no revision")
    if constants.HF_HUB_CACHE.startswith("~"):
        raise ModelLoadError(
            f"hf://{repo}: there is no folder for the hub's models: this user has no home; set HF_HOME to a folder "
            "that can be written"
        )
    return fetch(repo, revision, model, report)


class _Fetch:
    def __init__(self, repo: str, revision: str | None, model: ModelConfig, report: Report) -> None:
        self.repo = repo
        self.revision = revision
        self.model = model
        self.report = report
        self.commit: str | None = None

    def files(self) -> ModelFiles:
        try:
            info = huggingface_hub.HfApi().model_info(self.repo, revision=self.revision, timeout=30.0)
        except (RevisionNotFoundError, HFValidationError) as error:
            raise ModelLoadError(self._sentence(error)) from error
        # The transport's exceptions are those of whichever library this version of huggingface_hub uses.
        except Exception as error:
            if not _is_outage(error):
                raise ModelLoadError(self._sentence(error)) from error
            return self._from_cache(error)
        self.commit = info.sha
        if (found := self._elsewhere()) is not None:
            return found
        names = [sibling.rfilename for sibling in info.siblings or []]
        try:
            files = self._download(names)
        except ModelLoadError:
            raise
        except Exception as error:
            raise ModelLoadError(self._sentence(error)) from error
        self._remember_commit()
        return files

    def _from_cache(self, error: Exception) -> ModelFiles:
        """The result of an earlier fetch; `error` is why the hub can't be reached."""
        files = None
        for cache in (self._cache(), *self._other_caches()):
            with contextlib.suppress(OSError, ModelLoadError):
                self.commit = self.revision if self._names_a_commit() else self._ref(cache).read_text("utf-8").strip()
                files = self._of_snapshot(cache)
                break
        if files is None:
            raise ModelLoadError(self._sentence(error)) from error
        if not constants.HF_HUB_OFFLINE:
            logger.warning(
                "hf://%s: %s can't be asked (%s): the copy in its cache is served, commit %s",
                self.repo,
                constants.ENDPOINT,
                first_line(error),
                self.commit,
            )
        return files

    def _elsewhere(self) -> ModelFiles | None:
        """The commit's files in another program's cache, where it is whole; nothing is written there.

        On one volume a link serves the programs that only look in the usual place.
        """
        if (self._cache() / "snapshots" / str(self.commit)).is_dir():
            return None
        for cache in self._other_caches():
            with contextlib.suppress(OSError, ModelLoadError):
                files = self._of_snapshot(cache)
                logger.info("hf://%s: %s has it already, commit %s", self.repo, cache, self.commit)
                if cache.is_relative_to(cache_folder()) and self._cache().is_relative_to(cache_folder()):
                    self._link_to(cache)
                return files
        return None

    def _link_to(self, cache: Path) -> None:
        with contextlib.suppress(OSError):
            self._cache().parent.mkdir(parents=True, exist_ok=True)
            self._cache().symlink_to(os.path.relpath(cache, self._cache().parent))

    def _of_snapshot(self, cache: Path) -> ModelFiles:
        """Raises OSError or ModelLoadError where it is not whole."""
        folder = cache / "snapshots" / str(self.commit)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        gguf = self._chosen_gguf(names)
        if gguf is not None:
            return files_of_gguf(folder / gguf, self.commit)
        return files_of_folder(folder, self.model, self.commit)

    def _cache(self) -> Path:
        return Path(constants.HF_HUB_CACHE) / self._folder()

    def _other_caches(self) -> list[Path]:
        try:
            own = cache_folder()
        except ModelLoadError:  # no home; HF_HOME alone will do
            return []
        places = (own / "hub", own / "huggingface" / "hub", HOME_OF_ROOT)
        return [place / self._folder() for place in places if place != Path(constants.HF_HUB_CACHE)]

    def _folder(self) -> str:
        return repo_folder_name(repo_id=self.repo, repo_type="model")

    def _ref(self, cache: Path | None = None) -> Path:
        return (cache or self._cache()) / "refs" / (self.revision or constants.DEFAULT_REVISION)

    def _names_a_commit(self) -> bool:
        return COMMIT.fullmatch(self.revision or "") is not None

    def _remember_commit(self) -> None:
        """The file in which the hub's own tools look up a branch's commit; fetching by commit writes none."""
        ref = self._ref()
        if self.commit is None or self._names_a_commit():
            return
        with contextlib.suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            partial = ref.with_name(f".{ref.name}.{os.getpid()}")
            partial.write_text(self.commit, "utf-8")
            partial.replace(ref)

    def _download(self, names: Sequence[str]) -> ModelFiles:
        progress = _progress_class(f"hf://{self.repo}", self.report)
        wanted = [name for name in names if name in SMALL_FILES]
        if "modules.json" in names:
            wanted += [name for name in names if MODULE_FILE.fullmatch(name)]
        gguf = self._chosen_gguf(names)
        if gguf is not None:
            pieces = piece_names(gguf)
            paths = self._get_all(pieces, progress)
            return files_of_gguf(paths[0], self.commit)
        if self.model.load_format != "dummy":
            wanted += self._safetensors(names, progress)
        if not wanted:
            raise ModelLoadError(f"hf://{self.repo}: the repository holds no model (no config.json)")
        paths = self._get_all(wanted, progress)
        return files_of_folder(paths[0].parent, self.model, self.commit)

    def _chosen_gguf(self, names: Sequence[str]) -> str | None:
        ggufs = first_pieces([name for name in names if name.lower().endswith(".gguf")])
        chosen = self.model.file
        if chosen is not None:
            if chosen in names and names_gguf(chosen):
                return chosen
            raise ModelLoadError(f"hf://{self.repo}: there is no GGUF file {chosen}; there are {_listed(ggufs)}")
        plain = "config.json" in names and any(name.endswith(".safetensors") for name in names)
        match self.model.load_format:
            case "safetensors":
                return None
            case "dummy" if "config.json" in names:
                return None
            case "auto" if plain:
                return None
        if len(ggufs) == 1:
            return ggufs[0]
        if ggufs:
            raise ModelLoadError(f"hf://{self.repo}: name one of its files with --file: {_listed(ggufs)}")
        return None

    def _safetensors(self, names: Sequence[str], progress: type) -> list[str]:
        found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
        if INDEX in names:
            path = self._get(INDEX, progress)
            shards = read_shard_names(path)
            absent = [shard for shard in shards if shard not in found]
            if absent:
                raise ModelLoadError(f"hf://{self.repo}: its index names {absent[0]}, which the repository lacks")
            return [INDEX, *shards]
        if not found:
            raise ModelLoadError(
                f"hf://{self.repo}: it has neither safetensors nor GGUF weights; pickled ones (.bin, .pt) are not read"
            )
        return ["model.safetensors"] if "model.safetensors" in found else found

    def _get_all(self, names: Sequence[str], progress: type) -> list[Path]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(lambda name: self._get(name, progress), names))

    def _get(self, name: str, progress: type) -> Path:
        return Path(huggingface_hub.hf_hub_download(self.repo, name, revision=self.commit, tqdm_class=progress))

    def _sentence(self, error: Exception) -> str:
        cached = (self._cache() / "snapshots").is_dir() and isinstance(error, HfHubHTTPError) and not _is_outage(error)
        return self._reason(error) + ("; HF_HUB_OFFLINE=1 serves the copy in the cache" if cached else "")

    def _reason(self, error: Exception) -> str:
        where, page = f"hf://{self.repo}", f"{constants.ENDPOINT}/{self.repo}"
        has_token = huggingface_hub.get_token() is not None
        if isinstance(error, GatedRepoError):
            remedy = "has no access" if has_token else "must have access, and none is set"
            return f"{where}: this model is gated; ask for access at {page}; the token in HF_TOKEN {remedy}"
        if isinstance(error, RepositoryNotFoundError):
            remedy = "the token in HF_TOKEN may not read it" if has_token else "set HF_TOKEN if it is private"
            return f"{where}: {constants.ENDPOINT} has no such model for us: check the name, or {remedy}"
        if isinstance(error, RevisionNotFoundError):
            return f"{where}: there is no revision {self.revision}; see {page}/tree/main"
        if isinstance(error, HFValidationError):
            return f"{where}: this is no name of a model on the hub; write hf://ORG/NAME"
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return f"{where}: a file that the hub lists is missing there: {first_line(error)}"
        if isinstance(error, HfHubHTTPError):
            status = _status(error)
            remedy = {
                401: "; check the token in HF_TOKEN",
                403: "; the token in HF_TOKEN may not read it",
                429: "; it limits how often it is asked: wait, or set HF_TOKEN for a higher limit",
            }.get(status or 0, "")
            return f"{where}: {constants.ENDPOINT} answers {status or ''} {first_line(error)}{remedy}".replace(
                "  ", " "
            )
        if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
            return f"{error.filename}: {error.strerror}; HF_HOME names the folder that the hub's cache lies in"
        return (
            f"{where}: it is not in the cache at {constants.HF_HUB_CACHE}, "
            f"and {constants.ENDPOINT} can't be reached: {first_line(error)}"
        )


class _AdapterFetch(_Fetch):
    """Fetches an adapter's two files; others of its repository are its training's."""

    def _of_snapshot(self, cache: Path) -> ModelFiles:
        return self._in_folder(cache / "snapshots" / str(self.commit))

    def _download(self, names: Sequence[str]) -> ModelFiles:
        progress = _progress_class(f"hf://{self.repo}", self.report)
        absent = next((name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name not in names), None)
        if absent is not None:
            raise ModelLoadError(
                f"No adapter found for hf://{self.repo}: the repository has no {absent}; pickled weights (.bin) are not read"
            )
        return self._in_folder(self._get_all((ADAPTER_CONFIG, ADAPTER_WEIGHTS), progress)[0].parent)

    def _in_folder(self, folder: Path) -> ModelFiles:
        config, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
        if not (config.is_file() and weights.is_file()):
            raise ModelLoadError(f"No adapter found for hf://{self.repo}: {folder} is not whole")
        return ModelFiles(
            folder=folder, config=config, weights=(weights,), weights_format="safetensors", tokenizer=None
        )


def _progress_class(what: str, report: Report) -> type[Any]:
    """A bar that draws nothing and adds up all files' bytes for `report`."""
    lock = threading.Lock()
    done = total = 0

    class Progress(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            nonlocal done, total
            initial, size = kwargs.get("initial") or 0, kwargs.get("total") or 0
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})
            with lock:
                done += int(initial)
                total += int(size)

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            with lock:
                done += int(n or 0)
                report(what, done, max(total, done))

        def update_transfer(self, n: float | None = 1) -> None:
            """Xet counts bytes twice, as received and as written; `update` has the latter."""

        def set_transfer_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            """Belongs to the bar that `update_transfer` would fill."""

    return Progress


def _status(error: Exception) -> int | None:
    """The HTTP status that the hub answered with; None where it did not answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_outage(error: Exception) -> bool:
    """True if the hub was unreachable. A refusal is an answer, which the cache must not hide."""
    status = _status(error)
    return status is None or status >= 500


def _listed(names: Sequence[str]) -> str:
    return ", ".join(str(PurePosixPath(name)) for name in names) or "none"
