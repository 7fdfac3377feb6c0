"""Where a model comes from: a directory, an embedded model, a hub id, or a run and its adapters.

A run is a valid model name everywhere. An adapter directory is a link in a chain: its base may be
another adapter, down to full weights. The base is found where it was, then relative to the run,
then by the hash of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from tunesmith import platform, recipe as recipes
from tunesmith.errors import ConfigError, EnvironmentFault, TunesmithError
from tunesmith.registry import did_you_mean
from tunesmith.rundir import RunDir

_ASSETS = Path(str(files("tunesmith") / "assets"))
VIRTUAL = {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
"""Adapters of virtual tokens: what PEFT calls them, and our tuners."""
CARD = "tunesmith.json"
"""Beside a run's final weights: base, its hash, template and system prompt."""


@dataclass(frozen=True)
class Source:
    """A model by its parts: full weights, then adapters to lay over them, innermost first."""

    spec: str
    base: str
    """Directory of full weights, or a hub id; empty for a checkpoint of a model from scratch."""
    adapters: tuple[Path, ...] = ()
    checkpoint: Path | None = None
    """A checkpoint whose trained weights replace the base's."""
    scores: bool = False
    """Whether it is a reward model: it has a score for text, and no text of its own."""

    @property
    def top(self) -> Path | None:
        """The outermost directory: its tokenizer and template are the model's."""
        if self.adapters:
            return self.adapters[-1]
        return Path(self.base) if self.base and Path(self.base).is_dir() else None

    def card(self) -> dict:
        """What tunesmith noted beside the weights; empty for foreign models."""
        path = self.top / CARD if self.top else None
        return json.loads(path.read_text()) if path and path.is_file() else {}


def locate(spec: str, root: str = "runs/") -> Source:
    """Finds a model by directory, `builtin:`, run (id, prefix, path, last, @step-N) or hub id.

    Raises:
        EnvironmentFault: E201, nothing is there under that name.
    """
    if spec.startswith("builtin:"):
        return Source(spec, str(builtin(spec)))
    path = Path(spec).expanduser()
    if path.is_dir() and not (path / "run.json").is_file():
        if (path / "adapter_config.json").is_file():
            base = locate(find_base(path), root)
            return Source(spec, base.base, (*base.adapters, path), scores=_scores(path))
        return Source(spec, str(path), scores=_scores(path))
    run = find_run(spec.removeprefix("run:"), root)
    if run is not None:
        return of_run(spec, *run, root)
    if spec.startswith(("/", ".", "~", "run:")) or spec.count("/") != 1:
        raise missing_model(spec, root)
    return Source(spec, spec)


def of_run(spec: str, run: RunDir, selector: str | None, root: str) -> Source:
    """The model a run made: final/, else best, else newest valid checkpoint."""
    path = run.model_path(selector)
    if (path / "MANIFEST.json").is_file():
        path = _whole(run, path, selector)
        recorded = run.info().get("base")
        scores = run.info().get("stage") == "reward"
        if (
            recorded is None
        ):  # from scratch: the checkpoint holds all weights, the recipe the config
            return Source(spec, "", checkpoint=path, scores=scores)
        base = locate(existing_base(recorded, run.path), root)
        return Source(spec, base.base, base.adapters, checkpoint=path, scores=scores)
    inner = locate(str(path), root)
    return Source(spec, inner.base, inner.adapters, scores=inner.scores)


def _whole(run: RunDir, path: Path, selector: str | None) -> Path:
    """The checkpoint, if it is what was saved; else the newest that is, unless it was named.

    Raises:
        RunError: R113, there is none.
    """
    from tunesmith.training import checkpoint

    if not checkpoint.verify(path):
        return path
    other = None if selector else checkpoint.newest(run.path)
    return other.path if other else checkpoint.open_step(run.path, _step(path)).path


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _scores(path: Path) -> bool:
    """Whether a directory holds a score head: ours beside an adapter, or a classifier of
    transformers."""
    if (path / "score.safetensors").is_file():
        return True
    config = path / "config.json"
    found = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return any("ForSequenceClassification" in name for name in found.get("architectures") or ())


def language_model(spec: str, root: str = "runs/") -> Source:
    """As `locate`, for what must write text.

    Raises:
        EnvironmentFault: E201, nothing is there; E203, its weights are a pickle; E212, it is a
            reward model.
    """
    found = locate(spec, root)
    _refuse_pickles(found.base)
    if found.scores:
        raise EnvironmentFault(
            "E212",
            f"`{spec}` is a reward model: it scores text and can't write any",
            where="model.path",
            fix="name the language model it was trained from",
        )
    return found


_CONVERT = (
    'python -c "import glob,torch,safetensors.torch as s; w={{}}; '
    "[w.update(torch.load(f,weights_only=True)) for f in glob.glob(r'{0}')]; "
    "s.save_file({{k:v.clone() for k,v in w.items()}},r'{1}',{{'format':'pt'}})\""
)
"""Reads tensors only, and all shards into one file."""


def _refuse_pickles(base: str) -> None:
    """Weights that only unpickling would read are refused before anything else is done."""
    folder = Path(base)
    if not base or not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    for pattern in ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth"):
        pickles = sorted(folder.glob(pattern))
        if pickles:
            command = _CONVERT.format(folder / pattern, folder / "model.safetensors")
            raise EnvironmentFault(
                "E203",
                f"{folder} has its weights only as a pickle ({pickles[0].name}), never read here",
                where="model.path",
                why="A pickle can run code; safetensors can't.",
                fix=f"if you trust the file, make safetensors of it once:\n  {command}",
            )


def find_run(spec: str, root: str) -> tuple[RunDir, str | None] | None:
    """The run of that name, or None if no run is called so."""
    try:
        return RunDir.find(spec, root)
    except TunesmithError:
        return None


def builtin(spec: str) -> Path:
    """Directory of an embedded model.

    Raises:
        EnvironmentFault: E201, no such embedded model.
    """
    path = _ASSETS / spec.removeprefix("builtin:")
    if not (path / "config.json").is_file():
        raise missing_model(spec)
    return path


def find_base(adapter: Path) -> str:
    """The base that an adapter directory names, wherever it is now."""
    card = adapter / CARD
    if card.is_file():
        return existing_base(json.loads(card.read_text())["base"], adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    return str(config.get("base_model_name_or_path") or "")


def existing_base(recorded: dict, start: Path) -> str:
    """A recorded base with its recorded content: as it was called, relative to the run, or known
    by its hash.

    Raises:
        EnvironmentFault: E211, it is nowhere, or what is there has other content.
    """
    name, relative = recorded["path"], recorded.get("relative")
    if not Path(name).is_absolute() and not name.startswith("builtin:") and name.count("/") == 1:
        return name  # a hub id: its revision is pinned by the hub's own cache
    known = _index().get(recorded["sha256"], "")
    places = [name, str((start / relative).resolve()) if relative else "", known]
    changed = ""
    for place in filter(None, places):
        if not (place.startswith("builtin:") or Path(place).is_dir()):
            continue
        if content_hash(locate(place)) == recorded["sha256"]:
            return place
        changed = changed or place
    what = f"the base model at {changed} has changed" if changed else f"the base {name} is gone"
    raise EnvironmentFault(
        "E211",
        f"{what} since this was trained on it",
        where=str(start),
        fix="put it back; a copy elsewhere is known after `tunesmith model info FOLDER`",
    )


def base_of(spec: str, root: str = "runs/") -> str:
    """The model that a run or an adapter was trained from.

    Raises:
        EnvironmentFault: E201, no such model; E211, its base is gone or was never noted.
    """
    found = locate(spec, root)
    if found.checkpoint is not None and found.base:
        return str(found.top or found.base)
    if found.adapters:
        return find_base(found.adapters[-1])
    recorded = found.card().get("base")
    if recorded is None:
        raise EnvironmentFault(
            "E211", f"{spec} does not say what it was trained from", fix="name the other model"
        )
    return existing_base(recorded, found.top or Path())


def record_base(source: Source, run: Path, sha256: str) -> dict:
    """What an adapter or checkpoint notes about its base, so that it is found again."""
    top = source.checkpoint or source.top
    name = source.spec if source.spec.startswith("builtin:") or top is None else str(top.resolve())
    relative = os.path.relpath(top, run) if top is not None else None
    return {"path": name, "relative": relative, "sha256": sha256}


def check_base(found: Source | None) -> None:
    """Refuses to train over virtual tokens, which nothing can be merged under.

    Raises:
        ConfigError: E234.
    """
    if found is None:
        return
    tops = [json.loads((path / "adapter_config.json").read_text()) for path in found.adapters]
    virtual = any(top.get("peft_type") in VIRTUAL for top in tops)
    if found.checkpoint is not None:
        recipe = found.checkpoint.parents[1] / "resolved.yaml"
        virtual = virtual or recipes.load(str(recipe), environ={}).tuner.kind in VIRTUAL.values()
    if virtual:
        raise ConfigError(
            "E234",
            f"`{found.spec}` is virtual tokens before a model, and can't be trained on",
            where="model.path",
            why="They are read before every text; no weight of the model could stand for them.",
            fix="train from its base",
        )


def content_hash(source: Source) -> str:
    """sha256 over the weights and configs of a source; cached by path, size and mtime.

    A hub id is hashed by its name: its revision is pinned by the hub's own cache.
    """
    digest = hashlib.sha256()
    full = [Path(source.base)] if source.base else []  # a checkpoint from scratch has no base
    for folder in [*full, *source.adapters, *filter(None, [source.checkpoint])]:
        if not folder.is_dir():
            digest.update(str(folder).encode())
            continue
        for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*config.json")):
            digest.update(_file_hash(file).encode())
    value = digest.hexdigest()
    if source.top is not None and not source.spec.startswith("builtin:"):
        _remember("models.json", value, str(source.top.resolve()))
    return value


def _file_hash(file: Path) -> str:
    status = file.stat()
    key = f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    cached = _read("hashes.json").get(key)
    if cached:
        return cached
    with file.open("rb") as stream:
        value = hashlib.file_digest(stream, "sha256").hexdigest()
    _remember("hashes.json", key, value)
    return value


def _index() -> dict[str, str]:
    return _read("models.json")


def _read(name: str) -> dict[str, str]:
    path = platform.home() / name
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # a cache: absent or torn, it is made anew


def _remember(name: str, key: str, value: str) -> None:
    table = {**_read(name), key: value}
    path = platform.home() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(table))
    aside.replace(path)


def missing_model(spec: str, root: str = "runs/") -> EnvironmentFault:
    """E201, with the nearest name there is."""
    fix = "give a directory with config.json, builtin:tiny, a run (tunesmith runs), or org/name"
    return EnvironmentFault(
        "E201",
        f"no model at `{spec}`: not a directory, an embedded model or a run",
        where="model.path",
        fix=f"{_nearest(spec, root)}  {fix}".strip(),
    )


def _nearest(spec: str, root: str) -> str:
    """`did you mean …?` among the embedded models, the runs, and the folders beside the path."""
    embedded = [path.parent.name for path in sorted(_ASSETS.glob("*/config.json"))]
    near = get_close_matches(spec.removeprefix("builtin:"), embedded, n=1, cutoff=0.5)
    if near or spec.startswith("builtin:"):
        return f"did you mean `builtin:{near[0]}`?" if near else ""
    path = Path(spec).expanduser()
    while not path.parent.is_dir():  # the first part of the path that is not there
        path = path.parent
    beside = [child for child in path.parent.iterdir() if child.is_dir()]
    near = get_close_matches(path.name, [child.name for child in beside], n=1)
    if near and "/" in spec:
        rest = Path(spec).expanduser().relative_to(path)
        whole = path.parent / near[0] / rest
        return f"did you mean `{whole if whole.is_dir() else path.parent / near[0]}`?"
    runs = [run.id for run in RunDir.all(root)]
    here = [str(child) for child in beside if (child / "config.json").is_file()]
    return did_you_mean(spec.removeprefix("run:"), [*runs, *here])
