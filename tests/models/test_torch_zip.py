"""Old torch.save files: tensors are read exactly, everything else is refused and never runs."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith.errors import ExportError
from tunesmith.models import torch_zip


def refused(path, code: str) -> str:
    with pytest.raises(ExportError) as caught:
        torch_zip.load(path)
    assert caught.value.code == code
    return caught.value.what


def archive(path, program: bytes, storages=(), method=zipfile.ZIP_STORED):
    """A file as torch.save lays it out, with any pickle in it."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", program)
        for name, data in storages:
            file.writestr(f"archive/data/{name}", data)
    return path


class Storage:
    """Stands for a storage in `described`."""

    def __init__(self, kind, name, length):
        self.id = ("storage", kind, name, "cpu", length)


def described(value) -> bytes:
    """A pickle of `value` in which `Storage` objects are persistent references, as torch's are."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, found):
            return found.id if isinstance(found, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


class View:
    """A tensor by torch's own words."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        extra = (False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, (*self.arguments, *extra)


class Calls:
    """Unpickled, it would call something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_a_state_dictionary_is_read_exactly(dtype, tmp_path):
    torch.manual_seed(0)
    whole = torch.randn(6, 4).to(dtype)
    module = collections.OrderedDict(a=whole, part=whole[1:3], turned=whole.t(), one=whole[0, 0])
    torch.save(module, tmp_path / "x.bin")
    found = torch_zip.load(tmp_path / "x.bin")
    assert list(found) == list(module)
    for name, tensor in module.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_modules_and_parameters_of_any_protocol(protocol, tmp_path):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.LayerNorm(3))
    values = {"model": layer.state_dict(), "kept": torch.nn.Parameter(torch.ones(2)), "b": {}}
    torch.save(values, tmp_path / "x.bin", pickle_protocol=protocol)
    found = torch_zip.load(tmp_path / "x.bin")
    assert torch.equal(found["model.0.weight"], layer[0].weight)
    assert torch.equal(found["kept"], torch.ones(2))
    assert len(found) == 5


def test_a_call_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "ran"
    for number, evil in enumerate(
        [
            Calls(exec, f"open({str(trace)!r}, 'w')"),
            Calls(__import__("os").system, f"touch {trace}"),
            {"w": Calls(eval, f"open({str(trace)!r}, 'w')")},
            Calls(getattr, torch.nn.Linear, "save"),
        ]
    ):
        path = archive(tmp_path / f"{number}.bin", pickle.dumps(evil, protocol=2))
        assert "names" in refused(path, "X312")
        path = archive(tmp_path / f"{number}-4.bin", pickle.dumps(evil, protocol=4))
        refused(path, "X312")
    assert not trace.exists()


def test_an_object_of_a_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 1), tmp_path / "x.bin")
    assert "torch.nn" in refused(tmp_path / "x.bin", "X312")


@pytest.mark.parametrize("value", [{"w": 3}, {"w": "text"}, {"w": (1, 2)}, {}, None])
def test_what_is_no_tensor_is_refused(value, tmp_path):
    torch.save(value, tmp_path / "x.bin")
    refused(tmp_path / "x.bin", "X312")


FLOATS = torch.FloatStorage


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (3, (2,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (1,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2,), (-1,)),
        (0, (1, 1), (1,)),
        (0, (1.5,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(offset, size, stride, tmp_path):
    program = described({"w": View(Storage(FLOATS, "0", 4), offset, size, stride)})
    with pytest.raises(ExportError) as caught:
        torch_zip.load(archive(tmp_path / "x.bin", program, [("0", b"\0" * 16)]))
    assert caught.value.code in ("X312", "X313")


@pytest.mark.parametrize(
    ("name", "length", "data"), [("0", 4, b"\0" * 8), ("../0", 4, b""), ("1", 4, b"\0" * 16)]
)
def test_a_storage_of_another_size_or_place_is_refused(name, length, data, tmp_path):
    program = described({"w": View(Storage(FLOATS, name, length), 0, (1,), (1,))})
    refused(archive(tmp_path / "x.bin", program, [("0", data)]), "X312")


def test_a_compressed_entry_is_refused(tmp_path):
    program = described({"w": View(Storage(FLOATS, "0", 1 << 20), 0, (1,), (1,))})
    data = [("0", b"\0" * (4 << 20))]
    path = archive(tmp_path / "bomb.bin", program, data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 15
    assert "compressed" in refused(path, "X312")


def test_two_entries_of_one_name_are_refused(tmp_path):
    path = archive(tmp_path / "x.bin", described({}))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data.pkl", described({}))
    refused(path, "X312")


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    inner: dict = {}
    inner["self"] = inner
    refused(archive(tmp_path / "x.bin", pickle.dumps(inner, protocol=2)), "X312")
    wide: dict = {"w": {}}
    for _ in range(40):  # each level holds the one below twice: 2**40 names
        wide = {"a": wide, "b": wide}
    refused(archive(tmp_path / "y.bin", pickle.dumps(wide, protocol=2)), "X312")


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04", b"\x80\x02.", b"not a file of torch"])
def test_other_files_are_told_from_damaged_ones(text, tmp_path):
    (tmp_path / "x.bin").write_bytes(text)
    refused(tmp_path / "x.bin", "X313")


def test_files_from_before_the_zip_are_told(tmp_path):
    old = {"w": torch.ones(2)}
    torch.save(old, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    assert "1.6" in refused(tmp_path / "x.bin", "X313")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_tensors_or_a_refusal(place, byte, tmp_path):
    stream = io.BytesIO()
    torch.save(torch.nn.Linear(3, 1).state_dict(), stream)
    data = bytearray(stream.getvalue())
    data[place % len(data)] = byte
    (tmp_path / "x.bin").write_bytes(data)
    try:
        found = torch_zip.load(tmp_path / "x.bin")
    except ExportError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
