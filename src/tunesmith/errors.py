"""Every error a user can meet: code, what, where, why, fix; at most eight lines on a terminal.

    TunesmithError                     exit
    ├── ConfigError      C…  (ValueError)    2   recipe, override or command line
    │   └── ConfigErrors                     2   several of them, told together
    ├── DataError        D…  (ValueError)    3   data files, rows, templates, tokens
    ├── ResourceError    M…  (MemoryError)   5   memory or device does not suffice
    ├── EnvironmentFault E…  (RuntimeError)  2   machine, versions, missing model
    │   └── MissingExtra E401 (ImportError)  4   an optional dependency is not installed
    ├── RunError         R…  (RuntimeError)  1   a run failed (disk full, non-finite step, locked …)
    ├── GateFailed       G…  (RuntimeError)  6   a check or gate was not met
    ├── ServeError       S…  (RuntimeError)  1   server
    └── ExportError      X…  (RuntimeError)  1   export, merge, conversion

Add an error: raise one of these with the next free code of its family, write its entry in
`docs/errors.md` (a test compares the two), and add a test that provokes it.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_CODES: dict[int, str] = {
    0: "done; or nothing to do",
    1: "the run, the server or the export failed, a full disk among the causes; a question of the "
    "program's was answered with no; a bug (R900)",
    2: "the command line, the recipe, the machine or the model it names can't be used as they are",
    3: "the data: a file, a row, a template, tokens",
    4: "an optional package is missing; the message says the pip command",
    5: "memory: the run needs more than there is",
    6: "a check or a gate was not met: `doctor`, `demo`, `data check`, `eval`",
    130: "Ctrl-C; a training run saved its step first, unless it was pressed twice",
    143: "SIGTERM or a closed terminal; a training run saved its step first, unless it came twice",
}
"""Every exit code of `tunesmith`; `docs/exit-codes.md` says the same."""


class TunesmithError(Exception):
    """An error that is the user's to mend; printed without a traceback.

    Args:
        code: Stable code such as `C102`, documented in `docs/errors.md`.
        what: One sentence: what is wrong, with the value that was found.
        where: `file:line:column`, a key path, a device; empty if nowhere in particular.
        why: Extra lines that explain; empty if `what` says it all.
        fix: What to do next; empty only if nothing can be done.
    """

    exit_code = 1

    def __init__(self, code: str, what: str, *, where: str = "", why: str = "", fix: str = ""):
        super().__init__(code, what)
        self.code = code
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.what}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        lines += [f"  {line}" for line in self.why.splitlines()[:4]]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self):
        """Errors cross process borders (encoding workers), so they must pickle with all fields."""
        return _rebuild, (type(self), self.code, self.what, self.where, self.why, self.fix)


def _rebuild(kind: type[TunesmithError], code: str, what: str, where: str, why: str, fix: str):
    error = kind.__new__(kind)
    TunesmithError.__init__(error, code, what, where=where, why=why, fix=fix)
    return error


class ConfigError(TunesmithError, ValueError):
    exit_code = 2


class ConfigErrors(ConfigError):
    """Several mistakes of one recipe; code, place and exit are those of the first.

    Args:
        errors: Two or more, in the order they are told.
    """

    def __init__(self, errors: Sequence[TunesmithError]):
        first = errors[0]
        super().__init__(first.code, first.what, where=first.where, why=first.why, fix=first.fix)
        self.errors = tuple(errors)
        self.exit_code = first.exit_code

    def __str__(self) -> str:
        shown = [str(error) for error in self.errors]
        return "\n".join([*shown, f"{len(shown)} mistakes; nothing was done"])

    def __reduce__(self):
        return type(self), (self.errors,)


class DataError(TunesmithError, ValueError):
    exit_code = 3


class ResourceError(TunesmithError, MemoryError):
    exit_code = 5


class EnvironmentFault(TunesmithError, RuntimeError):
    exit_code = 2


class MissingExtra(EnvironmentFault, ImportError):
    """An optional dependency is missing; says the pip command that brings it."""

    exit_code = 4

    def __init__(self, package: str, extra: str, needed_for: str):
        super().__init__(
            "E401",
            f"{needed_for} needs the package `{package}`, which is not installed",
            fix=f"pip install 'tunesmith[{extra}]'",
        )


class RunError(TunesmithError, RuntimeError):
    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """A signal that ends work at once; nothing is lost but what was not yet saved."""

    def __init__(self, exit_code: int):
        super().__init__()
        self.exit_code = exit_code


class GateFailed(TunesmithError, RuntimeError):
    exit_code = 6


class ServeError(TunesmithError, RuntimeError):
    exit_code = 1


class ExportError(TunesmithError, RuntimeError):
    exit_code = 1
