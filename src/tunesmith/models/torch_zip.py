"""Tensors of old `torch.save` files, read without unpickling anything.

A file of torch 1.6 or later is a zip of raw storages and one pickle that says how tensors lie in
them. The pickle's opcodes are read one by one, and only those that a dictionary of tensors is made
of mean anything here: names of classes are compared with a short list, never imported or called. So
a hostile file can be refused, or give wrong numbers; it can't run anything.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import ExportError

MAX_PICKLE = 64 << 20
"""Bytes of the pickle: names and shapes of a hundred thousand tensors are far below it."""
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_DICT = ("collections", "OrderedDict")
_NAMES = {_TENSOR, _PARAMETER, _DICT, *(("torch", name) for name in _STORAGES)}


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names; only ever compared."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    entry: str
    length: int


class _Mark:
    """Where a tuple, list or dictionary on the stack begins."""


class _Refused(Exception):
    """Why a file is not read."""


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dictionary that `torch.save` wrote; nested ones by dotted name.

    Raises:
        ExportError: X312, the file holds something other than tensors; X313, it is no zip of
            torch 1.6 or later, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive).tensors()
    except _Refused as refused:
        raise ExportError(
            "X312",
            f"{path.name} is refused: {refused}",
            where=str(path),
            why="A pickle can name any code; only dictionaries of tensors are read.",
            fix="get the weights as safetensors from whoever made the file",
        ) from None
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise ExportError(
            "X313",
            f"{path.name} is no file of torch.save since torch 1.6: {str(error)[:80]}",
            where=str(path),
            fix="save it again with a newer torch, where you trust it, or get it as safetensors",
        ) from None


class _Reader:
    """One archive: a stack machine of the harmless part of pickle's opcodes."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive = archive
        infos = archive.infolist()
        self.entries = {info.filename: info for info in infos}
        if len(self.entries) != len(infos):
            raise _Refused("two entries have one name")
        pickles = [name for name in self.entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise zipfile.BadZipFile("it holds no data.pkl")
        self.folder = pickles[0].removesuffix("data.pkl")
        order = self.entries.get(f"{self.folder}byteorder")
        if order is not None and self._bytes(order, 16) != b"little":
            raise _Refused("its numbers are big-endian")
        self.program = self._bytes(self.entries[pickles[0]], MAX_PICKLE)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.cells: dict[_Storage, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        """What the pickle describes, flattened."""
        found: dict[str, Tensor] = {}
        _flatten(self._run(), "", found, set())
        if not found:
            raise _Refused("it holds no tensor")
        return found

    def _bytes(self, info: zipfile.ZipInfo, most: int) -> bytes:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _Refused("an entry is compressed or encrypted, which torch.save never does")
        if info.file_size > most:
            raise _Refused(f"{info.filename} is larger than it may be")
        return self.archive.read(info)

    # ------------------------------------------------------------ the machine

    def _run(self) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(self.program):
                if opcode.name == "STOP":
                    return self.stack.pop()
                if opcode.name in _PUSH:
                    self.stack.append(_PUSH[opcode.name](argument))
                elif opcode.name in _ACT:
                    _ACT[opcode.name](self, argument)
                else:
                    raise _Refused(f"its pickle uses {opcode.name}")
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise _Refused(f"its pickle is damaged ({type(error).__name__})") from None
        raise _Refused("its pickle has no end")

    def _since_mark(self) -> list[Any]:
        at = max(i for i, value in enumerate(self.stack) if isinstance(value, _Mark))
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def remember(self, place: Any) -> None:
        """BINPUT, LONG_BINPUT, MEMOIZE."""
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def recall(self, place: Any) -> None:
        self.stack.append(self.memo[place])

    def tuple_of_mark(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def tuple_of(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) != count:
            raise IndexError
        del self.stack[-count:]
        self.stack.append(values)

    def set_items(self, _: Any) -> None:
        values = self._since_mark()
        self._fill(values)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _fill(self, values: list[Any]) -> None:
        place = self.stack[-1]
        if not isinstance(place, dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):
                raise TypeError
            place[key] = value

    def named(self, argument: Any) -> None:
        """GLOBAL: its argument is `module name`."""
        module, _, name = str(argument).partition(" ")
        self._name(module, name)

    def named_from_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if (module, name) not in _NAMES:
            raise _Refused(f"it names {module}.{name}"[:80])
        self.stack.append(_Name(module, name))

    def storage(self, _: Any) -> None:
        """BINPERSID: ("storage", type, entry, device, length)."""
        kind, name, entry, _, length = self.stack.pop()
        if kind != "storage" or not isinstance(name, _Name) or name.name not in _STORAGES:
            raise _Refused("it refers to something other than a storage")
        if not re.fullmatch(r"[0-9]{1,9}", str(entry)) or not _is_count(length):
            raise _Refused("a storage has no proper name or length")
        self.stack.append(_Storage(_STORAGES[name.name], str(entry), length))

    def call(self, _: Any) -> None:
        """REDUCE: what is named and its arguments; nothing is called."""
        arguments, name = self.stack.pop(), self.stack.pop()
        known = (name.module, name.name)
        if known == _DICT and not arguments:
            self.stack.append({})
        elif known == _TENSOR:
            self.stack.append(self._tensor(*arguments[:4]))
        elif known == _PARAMETER and isinstance(arguments[0], Tensor):
            self.stack.append(arguments[0])
        else:
            raise _Refused(f"it calls {name.name}")

    def build(self, _: Any) -> None:
        """BUILD: an OrderedDict's `_metadata`, the versions of modules; it is left out."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise _Refused("it sets the state of something other than a dictionary")

    # ------------------------------------------------------------ numbers

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        sizes, strides = tuple(size), tuple(stride)
        if not isinstance(storage, _Storage) or not all(map(_is_count, (offset, *sizes, *strides))):
            raise _Refused("a tensor is no view of a storage")
        count = math.prod(sizes)
        last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if count and (last >= storage.length or count > storage.length):
            raise _Refused("a tensor reaches beyond its storage")
        return self._cells(storage).as_strided(sizes, strides, offset).clone()

    def _cells(self, storage: _Storage) -> Tensor:
        if storage not in self.cells:
            info = self.entries.get(f"{self.folder}data/{storage.entry}")
            wanted = storage.length * storage.dtype.itemsize
            if info is None or info.file_size != wanted:
                raise _Refused(f"storage {storage.entry} is missing or of another size")
            raw = bytearray(self._bytes(info, wanted))
            empty = torch.empty(0, dtype=storage.dtype)
            self.cells[storage] = torch.frombuffer(raw, dtype=storage.dtype) if raw else empty
        return self.cells[storage]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _flatten(value: Any, name: str, found: dict[str, Tensor], seen: set[int]) -> None:
    if isinstance(value, Tensor):
        found[name] = value
        return
    # A dictionary met twice may hold itself, or be many times larger than its file.
    if not isinstance(value, dict) or id(value) in seen or len(seen) > 100:
        raise _Refused(f"`{name[:60]}` is no tensor")
    seen.add(id(value))
    for key, child in value.items():
        _flatten(child, f"{name}.{key}" if name else str(key), found, seen)


_Action = Callable[[_Reader, Any], None]
_PUSH: dict[str, Callable[[Any], Any]] = {
    "MARK": lambda _: _Mark(),
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"),
        lambda argument: argument,
    ),
}
_ACT: dict[str, _Action] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "BINPUT": _Reader.remember,
    "LONG_BINPUT": _Reader.remember,
    "MEMOIZE": _Reader.remember,
    "BINGET": _Reader.recall,
    "LONG_BINGET": _Reader.recall,
    "TUPLE": _Reader.tuple_of_mark,
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_items,
    "GLOBAL": _Reader.named,
    "STACK_GLOBAL": _Reader.named_from_stack,
    "BINPERSID": _Reader.storage,
    "REDUCE": _Reader.call,
    "BUILD": _Reader.build,
}
