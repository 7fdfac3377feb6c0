"""A warmed process that forks one child for each command line, and kills it when it is told.

Importing torch and transformers takes seconds; a forked child has them at once. Run as
`python -m tests.crash.trainer`; requests and answers are JSON lines.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash import faults

ROOT = Path(__file__).resolve().parents[2]
# What every training imports, before the first child: it would import it, and the server again.
FIRST = ["torch", "transformers", "tunesmith.cli.train", "tunesmith.compose.train"]


class Answer(NamedTuple):
    """How a command line ended."""

    killed: bool
    code: int
    seconds: float
    output: str


class Trainer:
    """The other end: starts the process and asks it."""

    def __init__(self, log: Path):
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.trainer", str(log)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, root: Path | None = None, fault: dict | None = None) -> Answer:
        """Runs `tunesmith WORDS` in a fresh child.

        Args:
            words: The command line.
            root: Below which file operations are counted.
            fault: {"at": n, "kind": "kill"}: before operation n; {"after": s}: after s seconds;
                {"call": name, "number": n}: before call n of a function; {"record": path}: write
                every operation down; {"count": path}: how often the functions of `faults.CALLS`
                were called; None: let it live.
        """
        request = {"words": words, "root": str(root), "fault": fault or {}}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._process.stdout.readline()))

    def warm(self, *words: str) -> Answer:
        """Runs a command line, then imports in the server what its child had to import."""
        modules = self.log.with_suffix(".modules")
        modules.write_text(json.dumps(FIRST))
        self.run("", fault={"import": str(modules)})
        answer = self.run(*words, fault={"modules": str(modules)})
        self.run("", fault={"import": str(modules)})
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def serve(log: Path) -> None:
    """Answers requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        if "import" in request["fault"]:
            for name in json.loads(Path(request["fault"]["import"]).read_text()):
                _import(name)
            answer = Answer(False, 0, 0.0, "")
        else:
            answer = _fork(request, log)
        print(json.dumps(answer._asdict()), flush=True)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # a part of a package that only works inside it
        sys.modules.pop(name, None)


def _fork(request: dict[str, Any], log: Path) -> Answer:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(request, log)
    after = request["fault"].get("after")
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    code = -os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    output = log.read_text(errors="replace")[-20_000:]
    return Answer(killed, code, time.monotonic() - began, output)


def _child(request: dict[str, Any], log: Path) -> None:
    """Becomes `tunesmith WORDS`; never returns."""
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, target)
        before = set(sys.modules)
        _install(request["fault"], Path(request["root"]))
        from tunesmith.cli.main import main

        code = main(list(request["words"]))
        if "modules" in request["fault"]:
            new = [name for name in sys.modules if name not in before]
            Path(request["fault"]["modules"]).write_text(json.dumps(new))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _install(fault: dict[str, Any], root: Path) -> None:
    if "at" in fault:
        faults.kill(root, fault["at"], fault["kind"])()
    if "call" in fault:
        faults.kill_in_call(fault["call"], fault["number"])
    if "count" in fault:
        faults.count_calls(Path(fault["count"]))
    if "record" in fault:
        record = os.open(fault["record"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        faults.install(root, lambda i, operation, state: faults.note(record, operation))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
    os._exit(0)  # tearing torch down takes seconds
