"""Run directories: created, locked, written atomically, found by name; read by CLI and web."""

from tunesmith.rundir.directory import RunDir
from tunesmith.rundir.files import write_json

__all__ = ["RunDir", "write_json"]
