"""One entry of a dataset_info.json, as LLaMA-Factory and its forerunners write them, to a source.

    hf_hub_url, subset, split, folder, num_samples    a set of the hub
    file_name, file_sha1                              a file or folder beside the dataset_info.json
    formatting, ranking, columns, tags                what its rows are

If `columns` is given, what it leaves out or leaves empty is absent, whatever the rows have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tunesmith.data import read, rows_function
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Source
from tunesmith.registry import did_you_mean

Say = Callable[[str, str], None]

ALPACA = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
}
TURNS = {"messages": "messages", "system": "system", "tools": "tools"}
MEDIA = ("images", "videos", "audios")
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
}
"""Tags under which turns are OpenAI's messages."""
COLUMNS = (*(*ALPACA, *TURNS, *MEDIA, "chosen", "rejected", "kto_tag"),)
TAG_NAMES = (
    *("role_tag", "content_tag", "user_tag", "assistant_tag"),
    *("observation_tag", "function_tag", "system_tag"),
)
LOOK_AT = 20
"""Rows that are looked at for lists of answers."""
KNOWN = {
    *("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name"),
    *("file_sha1", "formatting", "ranking", "subset", "split", "folder", "num_samples"),
    *("columns", "tags", "fill", "licence", "gated", "page", "format"),
}


def source(
    name: str, entry: Any, given: Source, home: Path, say: Say, *, warn: bool = False
) -> Source:
    """The source that an entry describes; what the user said beside the name comes first.

    Args:
        name: The entry's name, for messages.
        entry: The entry.
        given: The source whose path is the name.
        home: The folder of the dataset_info.json.
        say: Is told what is not used.
        warn: Tell of a file that is not the one described, and use it; else that is an error.

    Raises:
        DataError: D124, images and the like; D127, placeholders that nothing fills; D133, an entry
            that can't be used, or whose file is not there; D220, it has another hash.
    """
    if not isinstance(entry, dict):
        _refuse(name, "its entry is no object", "see docs/data.md")
    if unused := sorted(set(entry) - KNOWN):
        hints = [f"{key} {hint}" for key in unused if (hint := did_you_mean(key, sorted(KNOWN)))]
        said = "; ".join([f"not used of its entry: {', '.join(unused)}", *hints])
        say("note", f"{name}: {said}")
    _say_unknown_columns(name, entry, say)
    for key in ("columns", "tags"):
        if not isinstance(entry.get(key, {}), dict):
            _refuse(name, f"`{key}` is no object", "see docs/data.md")
    _check_fill(name, entry, given)
    rows(name, entry)  # what can't be used is told before what is not there
    path = _path(name, entry, home, say, warn)
    format, columns = rows(name, _ranked(name, entry, path, say))
    return dataclasses.replace(
        given,
        path=path,
        format=given.format or format,
        columns=given.columns or columns,
        subset=given.subset or entry.get("subset"),
        split=given.split or entry.get("split"),
        max_samples=given.max_samples or entry.get("num_samples"),
    )


def _say_unknown_columns(name: str, entry: Mapping[str, Any], say: Say) -> None:
    """Tells keys of `columns` and `tags` that mean nothing, and would be passed over."""
    if entry.get("format"):  # ours: roles of a format, checked with it
        return
    for part, known in (("columns", COLUMNS), ("tags", TAG_NAMES)):
        for key in entry.get(part) or {}:
            if key not in known:
                said = f"{name}: `{key}` in {part} means nothing, and is not used"
                say("note", f"{said}  {did_you_mean(key, known)}".rstrip())


def _ranked(name: str, entry: Mapping[str, Any], path: str, say: Say) -> Mapping[str, Any]:
    """The entry with `ranking`, where its columns or its rows are pairs and it does not say so."""
    columns = entry.get("columns") or {}
    if "ranking" in entry or entry.get("format") or not columns:
        return entry
    why = ""
    if columns.get("chosen") and columns.get("rejected"):
        why = "its columns name `chosen` and `rejected`"
    elif (answer := columns.get("response")) and _holds_lists(path, answer):
        why = f"`{answer}` holds lists of answers"
    if not why:
        return entry
    say("note", f"{name}: read as pairs (ranking: true), since {why}")
    return {**entry, "ranking": True}


def _holds_lists(path: str, column: str) -> bool:
    """Whether most of the first rows of a file have a list in a column."""
    if not Path(path).exists():
        return False  # on the hub, or made by a function: not looked at before it is here
    try:
        found = list(itertools.islice(read.rows(path, on_bad=lambda error: None), LOOK_AT))
    except DataError:
        return False  # told where its rows are read
    held = [row.value.get(column) for row in found if isinstance(row.value, dict)]
    return 2 * sum(isinstance(value, list) for value in held) > len(found) > 0


def _path(name: str, entry: Mapping[str, Any], home: Path, say: Say, warn: bool) -> str:
    if hub := entry.get("hf_hub_url"):
        folder = entry.get("folder")
        return f"hf:{hub}/{folder}" if folder else f"hf:{hub}"
    if script := entry.get("script_url"):
        return _own_function(name, str(script), home, say)
    if file := entry.get("file_name"):
        return str(_checked(name, entry, (home / file).resolve(), say if warn else None))
    for key, where in (("ms_hub_url", "ModelScope"), ("om_hub_url", "Modelers")):
        if key in entry:
            what = f"it lies on {where} only ({entry[key]})"
            _refuse(name, what, "download it, and name the file: data.train=FILE")
    if key := entry.get("cloud_file_name"):
        _refuse(name, f"it lies in a cloud store ({key})", "download it: data.train=FILE")
    near = [f"`{key}`: {hint}" for key in set(entry) - KNOWN
            if (hint := did_you_mean(key, ("file_name", "hf_hub_url")))]  # fmt: skip
    fix = "; ".join([*sorted(near), "add file_name or hf_hub_url"])
    _refuse(name, "it names no hub set and no file", fix)


def _own_function(name: str, script: str, home: Path, say: Say) -> str:
    """`rows.py:function` beside the dataset_info.json, which is the user's own code; nothing else.

    Raises:
        DataError: D133.
    """
    file, _, _ = script.rpartition(":")
    if rows_function.is_one(script) and "://" not in script and (home / file).is_file():
        say("data", f"{name}: its rows are made by your function {script}")
        return str((home / script).resolve())
    if rows_function.is_one(script):
        _refuse(name, f"there is no file {home / file}", "check script_url: rows.py:function")
    _refuse(
        name,
        f"its rows are made by the script `{script}`, and code of data sets never runs",
        "write a function of your own that yields rows, and name it: script_url: rows.py:function"
        " (a file beside the dataset_info.json), or data.train=rows.py:function",
    )


def _checked(name: str, entry: Mapping[str, Any], file: Path, say: Say | None) -> Path:
    """The file of an entry, if it is the one described; told through `say` if there is one.

    Raises:
        DataError: D133, it is not there; D220, its SHA-1 is another.
    """
    if not file.exists():
        page = entry.get("page")
        fix = f"download it from {page}" if page else "check file_name"
        _refuse(name, f"its file is not there: {file}", f"{fix}, then data.train=FILE")
    expected = entry.get("file_sha1")
    if expected and file.is_file():
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha1").hexdigest()
        if found != str(expected).strip().lower():
            what = f"{name}: {file.name} is not the file described"
            if say is None:
                why = f"Its SHA-1 is {found}; the entry's file_sha1 is {expected}."
                fix = f"fetch it again; if it is the one you mean, data.train={file}, or"
                fix = f"{fix} data.on_finding=warn, or correct file_sha1"
                raise DataError("D220", what, where=str(file), why=why, fix=fix)
            say("note", f"{what}: its SHA-1 is {found}")
    return file


def rows(name: str, entry: Mapping[str, Any]) -> tuple[str | None, dict[str, str] | None]:
    """(format, columns by role) of an entry; None: to be found out from the rows.

    Raises:
        DataError: D124, D133.
    """
    if entry.get("format"):
        return entry["format"], entry.get("columns")
    columns = {role: column or "" for role, column in entry.get("columns", {}).items()}
    for media in MEDIA:
        if columns.get(media):
            what = f"the data set {name} has `{columns[media]}`; only text can be trained"
            raise DataError("D124", what, fix="choose another data set")
    tags = entry.get("tags", {})
    if not columns and not tags:
        return None, None
    if entry.get("formatting", "alpaca") == "alpaca":
        return _alpaca(columns, bool(entry.get("ranking")))
    if entry["formatting"] == "sharegpt":
        return _turns(columns, tags, bool(entry.get("ranking")))
    if entry["formatting"] == "openai":
        return _turns(
            {"messages": "messages", **columns}, {**TAGS, **tags}, bool(entry.get("ranking"))
        )
    known = "known: alpaca, sharegpt, openai"
    _refuse(name, f"its formatting `{entry['formatting']}` is unknown", known)


def _alpaca(columns: Mapping[str, str], ranking: bool) -> tuple[str, dict[str, str]]:
    made = {role: columns.get(key, "") for key, role in ALPACA.items()}
    if columns.get("kto_tag"):
        return "feedback", {**made, "label": columns["kto_tag"]}
    if ranking and columns.get("chosen"):
        made.pop("output")
        sides = {side: columns.get(side, "") for side in ("chosen", "rejected")}
        return "preference", {**made, **sides}
    if ranking:
        return "preference", made
    if not columns.get("response"):
        return "text", {"text": columns.get("prompt", "")}
    return "alpaca", made


def _turns(
    columns: Mapping[str, str], tags: Mapping[str, str], ranking: bool
) -> tuple[str, dict[str, str]]:
    made = {role: columns.get(key, "") for key, role in TURNS.items() if columns}
    if not made.get("messages"):
        made["messages"] = "conversations"
    # Under OpenAI's names they are OpenAI's messages, tool calls and all; else tags are kept.
    plain = all(tags.get(tag, usual) == usual for tag, usual in TAGS.items()) and tags
    kept = {} if plain else dict(tags)
    if ranking:
        made["prompt"] = made.pop("messages")
        sides = {side: columns.get(side) or side for side in ("chosen", "rejected")}
        return "preference", {**made, **sides, **kept}
    if columns.get("kto_tag"):
        return "feedback", {**made, "label": columns["kto_tag"], **kept}
    return ("openai" if plain else "sharegpt"), {**made, **kept}


def _check_fill(name: str, entry: Mapping[str, Any], given: Source) -> None:
    missing = [key for key in entry.get("fill", ()) if key not in (given.fill or {})]
    if missing:
        wanted = ", ".join(f"{key}: …" for key in missing)
        raise DataError(
            "D127",
            f"the rows of {name} have places for {' and '.join(missing)}",
            where="data.train",
            fix=f"data: {{train: [{{path: {name}, fill: {{{wanted}}}}}]}}",
        )


def _refuse(name: str, what: str, fix: str) -> NoReturn:
    raise DataError("D133", f"the data set {name} can't be used: {what}", fix=fix)
