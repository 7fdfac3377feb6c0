"""The probe: what a machine does when its products work, die, or die without a cap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from tunesmith import platform
from tunesmith.errors import ConfigError, EnvironmentFault

# Stands in for a CPU: like the real child it says what it measured, and then is killed where that
# CPU would be. {dies} lists dtypes that die without a cap, {always} those that die with one too.
CHILD = """
import json, os, signal, sys
print(json.dumps(["devices", []]), flush=True)
for name in sys.argv[1:]:
    capped = os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX512_CORE_FP16"
    if name in {always} or (name in {dies} and not capped):
        os.kill(os.getpid(), signal.SIGILL)
    print(json.dumps([name, {rates}[name]]), flush=True)
"""
RATES = {"float32": 0.2, "bfloat16": 0.1, "float16": 0.05}


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Puts a CPU in place of the real one, with an empty cache."""

    def cpu(dies=(), always=(), rates=RATES, cap=None):
        child = CHILD.format(dies=list(dies), always=list(always), rates=rates)
        monkeypatch.setattr(platform, "PROBE", child)
        monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        if cap:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
        platform._probe.cache_clear()

    yield cpu
    platform._probe.cache_clear()


def test_the_real_probe():
    machine = platform.probe()  # measured in this session, for its home was empty
    assert set(machine.dtypes) == set(platform.DTYPES)
    assert machine.dtypes["float32"] > 0
    assert (machine.cores >= 1, machine.memory_gb > 0.1) == (True, True)
    json.dumps(asdict(machine))


def test_all_is_well(cpu):
    cpu()
    machine = platform.probe()
    assert (machine.dtypes, machine.isa_cap) == (RATES, None)
    assert platform.choose_dtype() == "float32"
    assert platform.choose_dtype("float16") == "float16"


def test_the_faster_type_is_chosen(cpu):
    cpu(rates={**RATES, "bfloat16": 0.5})
    assert platform.choose_dtype() == "bfloat16"
    cpu(rates={**RATES, "bfloat16": 0.21})
    platform._store(platform.home() / "machine.json", platform._key(), platform.measure())
    assert platform.choose_dtype() == "float32"  # within the noise


def test_a_cap_saves_16_bit_products(cpu):
    cpu(dies=["bfloat16", "float16"], rates={**RATES, "bfloat16": 0.5})
    machine = platform.probe()
    assert machine.isa_cap == platform.CAP
    assert machine.dtypes["bfloat16"] == 0.5


def test_a_cap_comes_too_late_once_torch_is_loaded(cpu):
    import torch  # noqa: F401

    cpu(dies=["bfloat16"], rates={**RATES, "bfloat16": 0.5})
    platform.prepare()
    assert platform.isa_cap() is None
    assert platform.choose_dtype() == "float32"
    with pytest.raises(EnvironmentFault) as caught:
        platform.choose_dtype("bfloat16")
    assert caught.value.code == "E103"
    cpu(dies=["bfloat16"], rates={**RATES, "bfloat16": 0.5}, cap=platform.CAP)
    assert platform.choose_dtype("bfloat16") == "bfloat16"


def test_what_always_dies_is_refused(cpu):
    cpu(dies=["bfloat16"], always=["bfloat16"])
    machine = platform.probe()
    assert machine.dtypes == {"float32": 0.2, "bfloat16": None, "float16": 0.05}
    assert platform.choose_dtype() == "float32"
    with pytest.raises(EnvironmentFault) as caught:
        platform.choose_dtype("bfloat16")
    assert caught.value.code == "E101"


def test_a_cap_that_saves_nothing_is_not_set(cpu):
    cpu(always=["bfloat16", "float16"])
    assert platform.probe().isa_cap is None


def test_the_probe_is_cached_and_a_torn_cache_made_anew(cpu, monkeypatch):
    cpu()
    assert platform.probe().dtypes == RATES
    platform._probe.cache_clear()
    monkeypatch.setattr(platform, "PROBE", "raise SystemExit(3)")
    assert platform.probe().dtypes == RATES
    platform._probe.cache_clear()
    (platform.home() / "machine.json").write_text("{")
    assert platform.probe().dtypes == dict.fromkeys(platform.DTYPES)
    assert (platform.home() / "machine.json").read_text() == "{"  # a failure is not cached


def test_prepare_sets_the_environment_before_torch(tmp_path):
    script = (
        "import sys, os\nfrom tunesmith import platform\nplatform.prepare(1)\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\nprint(torch.get_num_threads(), os.environ['HF_HUB_OFFLINE'])\n"
        "platform.prepare(2)\nprint(torch.get_num_threads(), platform.threads())\n"
    )
    environment = {**os.environ, "TUNESMITH_OFFLINE": "1", "OMP_NUM_THREADS": "7"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "2", "2"]


def test_prepare_bounds_what_torch_keeps_of_shapes():
    """Without it memory grows with every new length of a batch."""
    script = (
        "import os\nfrom tunesmith import platform\nplatform.prepare(1)\n"
        "print(*map(os.environ.get, {}))"
    )
    names = ["LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"]
    rest = {name: value for name, value in os.environ.items() if name not in names}
    for given, expected in (({}, ["64", "64"]), ({names[0]: "9"}, ["9", "64"])):
        command = [sys.executable, "-c", script.format(names)]
        done = subprocess.run(
            command, env={**rest, **given}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("text", "count"), [("4", 4), ("4,2", 4), ("", None), ("0", None), ("x", None), (None, None)]
)
def test_thread_counts(text, count):
    assert platform._positive(text) == count


def test_devices(cpu, monkeypatch):
    cpu()
    assert platform.device() == "cpu"
    for name in ("tpu", "cuda:x", "cpu0"):
        with pytest.raises(ConfigError) as caught:
            platform.use_device(name)
        assert caught.value.code == "C203"
    for name in ("cuda", "cuda:3"):
        with pytest.raises(EnvironmentFault) as caught:
            platform.use_device(name)
        assert caught.value.code == "E104"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    platform.use_device("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_types_on_a_gpu(cpu, monkeypatch):
    cpu()
    ampere = platform.Device("A100", 80.0, (8, 0))
    turing = platform.Device("T4", 15.0, (7, 5))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for device, chosen in ((ampere, "bfloat16"), (turing, "float32")):
        machine = platform.Machine("x", False, "2", 1, 1.0, RATES, None, (device,))
        monkeypatch.setattr(platform, "probe", lambda machine=machine: machine)
        assert platform.device() == "cuda"
        assert platform.choose_dtype() == chosen
    with pytest.raises(EnvironmentFault) as caught:
        platform.choose_dtype("bfloat16")
    assert caught.value.code == "E101"


def test_without_torch(monkeypatch):
    def missing(name):
        raise platform.metadata.PackageNotFoundError(name)

    platform.torch_version.cache_clear()
    monkeypatch.setattr(platform.metadata, "version", missing)
    with pytest.raises(EnvironmentFault) as caught:
        platform.torch_version()
    assert caught.value.code == "E102"
