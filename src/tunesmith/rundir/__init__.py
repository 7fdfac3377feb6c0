"""Run directories: created, locked, written atomically, found by name; read by CLI and web."""

from tunesmith.rundir.files import write_json
from tunesmith.rundir.directory import RunDir

__all__ = ["RunDir", "write_json"]
