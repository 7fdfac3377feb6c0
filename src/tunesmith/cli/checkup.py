"""What `tunesmith doctor` looks at: versions, machine, places, the embedded model, extras."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from tunesmith import __version__, platform
from tunesmith.errors import EnvironmentFault

Status = Literal["ok", "warn", "fail"]
MODEL_SECONDS = 300.0

# The child has no network: what it does, works offline. It prints one JSON line for each thing
# that worked; what is missing failed, and stderr says why.
MODEL_CHECK = """
import json, sys
def guard(event, args):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(args[1], tuple)):
        raise OSError(f"network use while offline: {event} {args[-2:]}")
sys.addaudithook(guard)
from tunesmith import compose, recipe
from tunesmith.types import Conversation, Message, Request, Sampling
folder = sys.argv[1]
loaded = compose.load("builtin:tiny")
print(json.dumps(["loads", loaded.description]), flush=True)
from tunesmith.generation.torch import TorchGenerator
prompt = Conversation((Message.of("user", "Hello"),))
ids = tuple(loaded.template.prompt_ids(prompt))
stops = tuple(loaded.template.stop_ids)
sampling = Sampling(max_tokens=8, stop_ids=stops)
generator = TorchGenerator(loaded.model, loaded.tokenizer)
events = generator.generate([Request("doctor", ids, sampling)])["doctor"]
print(json.dumps(["generates", f"{len(events)} tokens"]), flush=True)
row = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}
with open(folder + "/chats.jsonl", "w") as file:
    file.writelines(json.dumps(row) + "\\n" for _ in range(4))
made = recipe.from_dict({
    "model": "builtin:tiny", "stage": "sft", "tuner": "lora", "output": {"dir": folder + "/runs"},
    "data": {"train": folder + "/chats.jsonl", "num_proc": 1},
    "train": {"max_steps": 2, "per_device_train_batch_size": 2, "save_steps": "no"},
})
run = compose.train(made)
print(json.dumps(["trains", f"{len(run.metrics())} lines of metrics"]), flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def findings(*, quick: bool = False) -> Iterator[Finding]:
    """Looks at one thing after the other; each is yielded as soon as it is known.

    Args:
        quick: Leave out the embedded model, which takes some seconds.
    """
    yield _python()
    yield from versions()
    yield from machine()
    yield from places()
    if not quick:
        yield from embedded_model()
    yield from extras()


# ---------------------------------------------------------------- versions


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    fix = "" if ok else "install Python 3.11 or newer; transformers 5.23 demands it"
    return Finding("python", "ok" if ok else "fail", found, fix)


def versions() -> Iterator[Finding]:
    """Installed packages against the ranges tunesmith was tested with."""
    for name, wanted, extra in requirements():
        if extra:
            continue
        found = installed(name)
        fix = f"pip install '{name}{wanted}'"
        if found is None:
            yield Finding(name, "fail", f"not installed (needs {wanted})", fix)
        elif fits(found, wanted):
            yield Finding(name, "ok", f"{found} ({wanted})")
        else:
            yield Finding(name, "warn", f"{found} is outside the tested range {wanted}", fix)


def requirements() -> list[tuple[str, str, str]]:
    """(package, version range, extra or "") of everything tunesmith names, from its metadata."""
    try:
        lines = metadata.requires("tunesmith") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?$", line)
        if match:
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", match[3] or "")
            found.append((match[1], match[2].replace(" ", ""), extra[1] if extra else ""))
    return found


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def fits(version: str, wanted: str) -> bool:
    """Whether a version lies in a range like `>=5.23,<5.24`; local parts (`+cpu`) don't count."""
    found = _numbers(version)
    tests = {
        ">=": lambda bound: found >= bound,
        "<=": lambda bound: found <= bound,
        "==": lambda bound: found[: len(bound)] == bound,
        "!=": lambda bound: found[: len(bound)] != bound,
        "<": lambda bound: found < bound,
        ">": lambda bound: found > bound,
    }
    for clause in filter(None, wanted.split(",")):
        match = re.match(r"(>=|<=|==|!=|<|>)(.+)", clause.strip())
        if match and not tests[match[1]](_numbers(match[2].removesuffix(".*"))):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


# ---------------------------------------------------------------- machine


def machine() -> Iterator[Finding]:
    """CPU, dtypes as measured, memory, devices, and what a run would choose."""
    try:
        found = platform.probe()
    except EnvironmentFault as error:
        yield Finding("machine", "fail", error.what, error.fix)
        return
    kind = "virtual" if found.hypervisor else "bare metal"
    yield Finding("cpu", "ok", f"{found.cpu}, {found.cores} cores, {kind}")
    status: Status = "ok" if found.memory_gb >= 4 else "warn"
    yield Finding("memory", status, f"{found.memory_gb:.1f} GB")
    if found.dtypes.get("float32") is None:
        yield Finding("dtypes", "fail", "torch can't multiply matrices", "reinstall torch")
        return
    rates = {n: "dies" if r is None else f"{r:.3f} TFLOP/s" for n, r in found.dtypes.items()}
    yield Finding("dtypes", "ok", ", ".join(f"{name} {rate}" for name, rate in rates.items()))
    if found.isa_cap:
        detail = f"16-bit products die here with all instructions; capped to {found.isa_cap}"
        yield Finding("instructions", "warn", detail, "nothing: runs set ONEDNN_MAX_CPU_ISA")
    for number, device in enumerate(found.devices):
        yield Finding(f"cuda:{number}", "ok", f"{device.name}, {device.memory_gb:.1f} GB")
    chosen = f"{platform.choose_dtype()} on {platform.device()}, {platform.threads()} threads"
    yield Finding("a run uses", "ok", chosen)


def places() -> Iterator[Finding]:
    """Whether caches and runs can be written, and how much room there is."""
    for name, path in (("home", platform.home()), ("runs here", Path.cwd())):
        folder = path
        while not folder.exists():
            folder = folder.parent
        if not _takes_files(folder):
            fix = "set TUNESMITH_HOME" if name == "home" else "set output.dir"
            yield Finding(name, "fail", f"{path} is not writable", fix)
            continue
        free = shutil.disk_usage(folder).free / 1e9
        status: Status = "ok" if free >= 1 else "warn"
        yield Finding(name, status, f"{path}, {free:.1f} GB free")


def _takes_files(folder: Path) -> bool:
    """By trying: for root, and on read-only disks, the permission bits tell nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def embedded_model() -> Iterator[Finding]:
    """Loads the embedded model, generates, and trains two steps, with the network shut."""
    if not (Path(str(files("tunesmith"))) / "assets" / "tiny" / "config.json").is_file():
        yield Finding("embedded model", "warn", "not in this installation", "reinstall tunesmith")
        return
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TUNESMITH_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        environment["TUNESMITH_HOME"] = f"{folder}/home"  # no trace in the index of runs
        _share_probe(Path(folder) / "home")
        try:
            done = subprocess.run(
                [sys.executable, "-c", MODEL_CHECK, folder],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=MODEL_SECONDS,
                check=False,
            )
            output, error = done.stdout, done.stderr
        except subprocess.TimeoutExpired:
            output, error = "", f"no answer within {MODEL_SECONDS:g} s"
    said = dict(json.loads(line) for line in output.splitlines() if line.startswith('["'))
    why = (error.strip().splitlines() or ["it said nothing"])[-1]
    for name in ("loads", "generates", "trains"):
        if name not in said:
            fix = "tunesmith doctor --report FILE, and report it"
            yield Finding(f"embedded model {name}", "fail", why[:200], fix)
            return
        yield Finding(f"embedded model {name}", "ok", f"{said[name]}, offline")


def _share_probe(home: Path) -> None:
    """Spares the child the measurement that was just made."""
    cached = platform.home() / "machine.json"
    if cached.is_file():
        home.mkdir(parents=True)
        shutil.copy(cached, home / cached.name)


def extras() -> Iterator[Finding]:
    """Optional packages: what is there, and the command that brings the rest."""
    groups: dict[str, list[str]] = {}
    for name, _, extra in requirements():
        if extra and extra not in ("dev", "parity"):
            groups.setdefault(extra, []).append(name)
    for extra, names in groups.items():
        found = {name: installed(name) for name in names}
        detail = ", ".join(f"{name} {version or 'no'}" for name, version in found.items())
        missing = not all(found.values())
        fix = f"pip install 'tunesmith[{extra}]'" if missing else ""
        yield Finding(f"optional: {extra}", "ok", detail, fix)


# ---------------------------------------------------------------- the report

_SECRET = re.compile(r"(token|key|secret|passw|credential|auth|cookie|proxy)", re.IGNORECASE)
_NAMES = re.compile(
    r"^(TUNESMITH_|HF_|OMP_|MKL_|ONEDNN_|CUDA_|NVIDIA_|TORCH|TRITON|PYTHON|NO_COLOR|LC_)"
)
_VALUES = re.compile(
    r"(hf_|sk-|gh[pousr]_|xox[bp]-)[A-Za-z0-9_-]{8,}|://[^/\s:@]+:[^/\s@]+@|AKIA[0-9A-Z]{16}"
)


def bundle(found: list[Finding]) -> dict[str, Any]:
    """Everything a bug report needs, and no secrets: named variables only, values redacted."""
    shown = {
        name: "(set)" if _SECRET.search(name) else redact(value)
        for name, value in sorted(os.environ.items())
        if _NAMES.match(name)
    }
    packages = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {
        "tunesmith": __version__,
        "findings": [vars(finding) for finding in found],
        "machine": asdict(platform.probe()),
        "environment": shown,
        "packages": dict(sorted(packages.items(), key=lambda pair: str(pair[0]).lower())),
        "log": [redact(line) for line in _log_tail()],
    }


def redact(text: str) -> str:
    """The text without what looks like a credential, and with ~ for the home directory."""
    return _VALUES.sub("(removed)", text).replace(str(Path.home()), "~")


def _log_tail(lines: int = 100) -> list[str]:
    try:
        text = (platform.home() / "log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]
