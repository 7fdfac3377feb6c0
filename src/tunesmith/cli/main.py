"""`tunesmith`: finds the verb, loads its file alone, and turns errors into exit codes.

The convention for verbs: `cli/<verb>.py` exposes `app`, made by `output.app(examples=[…])`. A verb
with one command has one `@app.command()`; a verb with several has `@app.command("name")` for each.
Nothing heavy is imported at the top of a verb's file. The line shown by `tunesmith --help` stands
in `VERBS` here, so that help imports no verb; `--debug` may stand anywhere and is taken away before
the verb sees it. Verbs that compute (`computes`) find `platform.prepare()` already called.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import traceback
from typing import NamedTuple

from tunesmith import __version__
from tunesmith.errors import ConfigError, EnvironmentFault, Interrupted, RunError, TunesmithError


class Verb(NamedTuple):
    help: str
    computes: bool = False
    """Imports torch: the machine is probed and the environment set first."""


VERBS: dict[str, Verb] = {
    "demo": Verb("The main job end to end in about a minute, offline.", computes=True),
    "train": Verb("Train a recipe; overrides are key=value.", computes=True),
    "resume": Verb("Go on with a run as if nothing had happened.", computes=True),
    "stop": Verb("Let a run finish its step, save and stop."),
    "runs": Verb("List, show, compare and remove runs."),
    "data": Verb("Inspect, check, repair, convert, split, mix and tokenize data."),
    "estimate": Verb("Memory, time and disk of a recipe, before any work.", computes=True),
    "chat": Verb("Talk to a run or a model.", computes=True),
    "generate": Verb("Answer a prompt, or every row of a file.", computes=True),
    "serve": Verb("A model behind OpenAI's API, on this machine.", computes=True),
    "score": Verb("What a reward model thinks of pairs, chats or texts.", computes=True),
    "eval": Verb("What a run's own evaluation says, on any data.", computes=True),
    "merge": Verb("Bake an adapter into its base model.", computes=True),
    "export": Verb("Write a model in another form.", computes=True),
    "model": Verb("What a model is made of.", computes=True),
    "config": Verb("Check and show recipes; their JSON Schema."),
    "doctor": Verb("What this machine and installation can do."),
}

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

USAGE = """\
usage: tunesmith VERB …            tunesmith VERB --help shows examples

{verbs}

  --version   print the version      --debug   show tracebacks

first steps:
  tunesmith demo
  tunesmith train tiny-sft-lora optim.learning_rate=1e-4
  tunesmith chat last
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command line.

    Args:
        argv: Words after the program's name; default: the process's own.

    Returns:
        The exit code: 0 ok, 130 interrupted, else the error's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = _run(words)
        sys.stdout.flush()  # here a reader that left can still be told from a failure
        return code
    except TunesmithError as error:
        if debug:
            traceback.print_exc()
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return error.exit_code if isinstance(error, Interrupted) else 130
    except BrokenPipeError:  # `tunesmith runs | head`: nobody reads on, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            traceback.print_exc()
        if error.filename is None and error.errno not in FULL:
            _report_unexpected(error, words)
            return 1
        fault = _unusable_file(error)
        print(fault, file=sys.stderr)
        return fault.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
        _report_unexpected(error, words)
        return 1


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(usage(), end="")
        return 0
    if words[0] in ("--version", "-V"):
        print(f"tunesmith {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in VERBS:
        raise _unknown_verb(name)
    asks_help = "--help" in rest or "-h" in rest
    if VERBS[name].computes and not asks_help:
        from tunesmith import platform

        platform.prepare()
    from tunesmith.cli import output

    module = importlib.import_module(f"tunesmith.cli.{name}")
    return output.run(module.app, f"tunesmith {name}", rest)


def usage() -> str:
    """What `tunesmith --help` prints."""
    return USAGE.format(verbs="\n".join(f"  {name:<10}{verb.help}" for name, verb in VERBS.items()))


def _unusable_file(error: OSError) -> TunesmithError:
    """A file or folder that was named and can't be read or written, or a disk that is full."""
    if error.errno in FULL:
        return RunError(
            "R121",
            f"{error.strerror}: {error.filename or 'a file that was being written'}",
            fix="free space; TUNESMITH_HOME and output.dir may be on another disk",
        )
    return EnvironmentFault(
        "E111",
        f"{error.strerror or error}: {error.filename}",
        why="the file or folder can't be read or written",
        fix="check the name, that its folder exists, and your rights to it",
    )


def _unknown_verb(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, VERBS, n=1)
    hint = f"did you mean `{near[0]}`?  " if near else ""
    return ConfigError(
        "C201",
        f"no verb called `{name}`",
        where="command line",
        fix=f"{hint}verbs: {', '.join(VERBS)}",
    )


def _report_unexpected(error: Exception, words: list[str]) -> None:
    """A bug of ours: one short message; the traceback goes to a file."""
    from tunesmith import platform

    short = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    print(f"error[R900]: unexpected {short}", file=sys.stderr)
    path = platform.home() / "log.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"tunesmith {__version__} {' '.join(words)}\n")
            file.writelines(traceback.format_exception(error))
    except OSError:
        print("  fix: run it again with --debug to see the traceback", file=sys.stderr)
        return
    print(f"  traceback: {path}  (or run it again with --debug)", file=sys.stderr)
    print("  fix: this is a bug in tunesmith; please report it", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
