"""What this machine can do: CPU dtypes measured in a child process, devices, cores, memory.

Torch-free: torch is only ever imported by the child. On some virtual machines the CPU advertises
AMX but hides CPUID leaf 0x1D, and a bf16 product kills the process with SIGILL (oneDNN issue
5689). `ONEDNN_MAX_CPU_ISA` set before the first product avoids that, set later it does nothing; so
`prepare()` is the first call of the command line, of every public function and of every worker.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, EnvironmentFault

CAP = "AVX512_CORE_FP16"
_CAP_VARIABLE = "ONEDNN_MAX_CPU_ISA"
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # by these a user says how threads wait
DTYPES = ("float32", "bfloat16", "float16")
PROBE_SECONDS = 60.0  # for a cold disk; a warm probe takes two to three
SHAPES = "64"  # whose products torch and oneDNN remember, 0.3 MB each; a step has thirty, all new
BETTER = 1.1  # bfloat16 must win by more than the noise of the measurement

# Prints one JSON line for each fact as soon as it is known: what killed the child is what follows
# the last line. 512³ is enough to be timed, and bearable where 16-bit products are emulated.
PROBE = """
import json, sys, time
import torch
def say(name, value):
    print(json.dumps([name, value]), flush=True)
say("devices", [
    {"name": p.name, "memory_gb": p.total_memory / 1e9, "capability": [p.major, p.minor]}
    for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
] if torch.cuda.is_available() else [])
for name in sys.argv[1:]:
    x = torch.ones(512, 512, dtype=getattr(torch, name))
    x @ x
    best = 0.0
    stop = time.perf_counter() + 0.12
    while True:
        begin = time.perf_counter()
        x @ x
        end = time.perf_counter()
        best = max(best, 2 * 512**3 / (end - begin) / 1e12)
        if end > stop:
            break
    say(name, best)
"""


@dataclass(frozen=True)
class Device:
    """An accelerator."""

    name: str
    memory_gb: float
    capability: tuple[int, int]

    @property
    def has_bfloat16(self) -> bool:
        return self.capability >= (8, 0)


@dataclass(frozen=True)
class Machine:
    """What was found. Rates are of matrix products on the CPU, in TFLOP/s; None: it dies."""

    cpu: str
    hypervisor: bool
    torch: str
    cores: int
    memory_gb: float
    dtypes: dict[str, float | None] = field(default_factory=dict)
    isa_cap: str | None = None
    """Value of ONEDNN_MAX_CPU_ISA that the other dtypes need to live here."""
    devices: tuple[Device, ...] = ()


def home() -> Path:
    """TUNESMITH_HOME: caches and the index of runs; default ~/.cache/tunesmith."""
    return Path(os.environ.get("TUNESMITH_HOME") or "~/.cache/tunesmith").expanduser()


# ---------------------------------------------------------------- before torch


def prepare(threads: int | None = None) -> None:
    """Sets the environment that torch and its libraries read when they are first used.

    Cheap after the first time: the probe is cached. May be called again, with other threads.

    Args:
        threads: CPU threads; default: OMP_NUM_THREADS if set, else one per core.

    Raises:
        EnvironmentFault: E102, torch is not installed.
    """
    count = threads or _positive(os.environ.get("OMP_NUM_THREADS")) or cores()
    os.environ["OMP_NUM_THREADS"] = str(count)
    # A short spin before a waiting thread sleeps: where another process wants a core too, training
    # on all is 10 times faster (two cores, load 4). `threads.watch` finds the better where it can.
    if not WAITING & os.environ.keys() and not Path("/proc/self/schedstat").exists():
        os.environ["GOMP_SPINCOUNT"] = "1000"
    for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(variable, SHAPES)
    if os.environ.get("TUNESMITH_OFFLINE", "") not in ("", "0", "false", "no"):
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"
    code = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
    for variable, name in code.items():
        os.environ.setdefault(variable, str(home() / name))  # code that never travels
    cap = probe().isa_cap
    torch = sys.modules.get("torch")
    if cap is not None and not os.environ.get(_CAP_VARIABLE) and torch is None:
        os.environ[_CAP_VARIABLE] = cap
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def use_device(name: str) -> None:
    """Restricts this process to `cpu`, `cuda` or `cuda:N`; call it before torch is used.

    Raises:
        ConfigError: C203, not the name of a device.
        EnvironmentFault: E104, there is no such device.
    """
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ConfigError("C203", f"no device is called `{name}`", fix="use cpu, cuda or cuda:0")
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    found = len(probe().devices)
    if int(index or 0) >= found:
        raise EnvironmentFault(
            "E104",
            f"there is no device {name}: torch sees {found} CUDA device(s)",
            fix="tunesmith doctor lists the devices; --device cpu always works",
        )
    if index:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(i) for i in range(found)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[int(index)]


# ---------------------------------------------------------------- what was chosen


def device() -> str:
    """`cuda` if there is a visible CUDA device, else `cpu`."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "cpu"
    return "cuda" if probe().devices else "cpu"


def threads() -> int:
    """CPU threads of this process, as `prepare` set them."""
    return _positive(os.environ.get("OMP_NUM_THREADS")) or cores()


def isa_cap() -> str | None:
    """The cap on instructions in force here, or None."""
    return os.environ.get(_CAP_VARIABLE) or None


def choose_dtype(requested: str = "auto") -> str:
    """The compute type: what was asked for if it works here; for `auto` the faster one.

    Args:
        requested: auto, float32, bfloat16 or float16.

    Raises:
        EnvironmentFault: E101, it does not work on this machine; E103, it would need a cap on
            instructions that torch no longer heeds, because it was loaded before `prepare()`.
    """
    if requested == "float32":
        return requested
    if device() == "cuda":
        return _choose_on_cuda(requested)
    machine = probe()
    too_late = machine.isa_cap is not None and not os.environ.get(_CAP_VARIABLE)
    if requested == "auto":
        fast, slow = machine.dtypes.get("bfloat16"), machine.dtypes.get("float32")
        wins = fast is not None and slow is not None and fast > BETTER * slow
        return "bfloat16" if wins and not too_late else "float32"
    if machine.dtypes.get(requested) is None:
        raise EnvironmentFault(
            "E101",
            f"a {requested} matrix product kills the process on this CPU ({machine.cpu})",
            fix="train.dtype=float32",
        )
    if too_late:
        raise EnvironmentFault(
            "E103",
            f"{requested} needs {_CAP_VARIABLE}={machine.isa_cap}, and torch is already loaded",
            fix="call tunesmith before importing torch, set that variable, or train.dtype=float32",
        )
    return requested


def _choose_on_cuda(requested: str) -> str:
    has_bfloat16 = all(found.has_bfloat16 for found in probe().devices)
    if requested == "auto":
        return "bfloat16" if has_bfloat16 else "float32"
    if requested == "bfloat16" and not has_bfloat16:
        raise EnvironmentFault(
            "E101", "this GPU has no bfloat16", fix="train.dtype=float16 or train.dtype=float32"
        )
    return requested


# ---------------------------------------------------------------- the machine


def probe() -> Machine:
    """This machine, measured once and cached under `home()`.

    Raises:
        EnvironmentFault: E102, torch is not installed.
    """
    return _probe(_key(), str(home()))


@lru_cache(maxsize=4)
def _probe(key: str, folder: str) -> Machine:
    path = Path(folder) / "machine.json"
    found = _cached(path).get(key)
    if found is None:
        found = measure()
        if found["dtypes"].get("float32") is not None:  # a failed probe is tried again next time
            _store(path, key, found)
    facts = cpu_facts()
    return Machine(
        cpu=facts["cpu"],
        hypervisor=facts["hypervisor"],
        torch=torch_version(),
        cores=cores(),
        memory_gb=round(memory_bytes() / 1e9, 2),
        dtypes=found["dtypes"],
        isa_cap=found["isa_cap"],
        devices=tuple(
            Device(d["name"], d["memory_gb"], (d["capability"][0], d["capability"][1]))
            for d in found["devices"]
        ),
    )


def measure(environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs the probe child, again under the cap if it was killed, and again without what kills it.

    Args:
        environment: Of the child; default: this process's own.

    Returns:
        `dtypes` name → TFLOP/s or None, `isa_cap`, `devices`.
    """
    base = dict(os.environ if environment is None else environment)
    wanted: list[str] = list(DTYPES)
    cap = None
    rates: dict[str, float | None] = dict.fromkeys(DTYPES)
    devices: list[Any] = []
    while wanted:
        child = {**base, _CAP_VARIABLE: cap} if cap else base
        said, died = _child(wanted, child)
        devices = said.get("devices", devices)
        rates |= {name: said[name] for name in wanted if name in said}
        silent = [name for name in wanted if name not in said]
        if not died or not silent:
            break
        if cap is None and not base.get(_CAP_VARIABLE):
            cap = CAP
        else:
            wanted.remove(silent[0])
            rates[silent[0]] = None
    if cap is not None and not any(rates[name] for name in ("bfloat16", "float16")):
        cap = None  # it saves nothing
    return {"dtypes": rates, "isa_cap": cap, "devices": devices}


def _child(dtypes: list[str], environment: dict[str, str]) -> tuple[dict[str, Any], bool]:
    """What the probe said, and whether a signal ended it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *dtypes],
            env=environment,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}, False
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    said = dict(json.loads(line) for line in lines if line.startswith("["))
    return said, done.returncode < 0


def _key() -> str:
    """Changes when the probe might come out differently."""
    facts = cpu_facts()
    given = os.environ.get(_CAP_VARIABLE)
    parts = [facts["cpu"], str(facts["hypervisor"]), torch_version()]
    parts.append(given if given and given != CAP else "")
    if Path("/dev/nvidiactl").exists():
        parts.append(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cached(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _store(path: Path, key: str, found: dict[str, Any]) -> None:
    """A cache: whoever writes last wins, and not being able to write is no failure."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside.write_text(json.dumps({**_cached(path), key: found}, indent=1), encoding="utf-8")
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)


@lru_cache
def torch_version() -> str:
    """The installed torch, read from its metadata.

    Raises:
        EnvironmentFault: E102, there is none.
    """
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise EnvironmentFault(
            "E102", "torch is not installed", fix="pip install torch==2.13.0"
        ) from None


@lru_cache
def cpu_facts() -> dict[str, Any]:
    """CPU model and whether a hypervisor is below us."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        import platform  # the standard library's, where /proc is missing

        return {"cpu": platform.processor() or platform.machine(), "hypervisor": False}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    return {"cpu": fields.get("model name", "unknown"), "hypervisor": "hypervisor" in flags}


def cores() -> int:
    """Cores this process may use: affinity, container quota and hyper-threads considered."""
    import psutil

    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or available
    return max(1, min(available, physical, _quota() or available))


def _quota() -> int | None:
    """CPUs a container's cgroup (version 2) grants, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else -(-int(quota) // int(period))


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its container's share."""
    import psutil

    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _positive(text: str | None) -> int | None:
    """A positive integer, or None for anything else."""
    first = (text or "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None
