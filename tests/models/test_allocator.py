"""The allocator's setting is taken where there is glibc, and asked for once."""

import platform

from tunesmith.models.allocator import keep_freed_memory


def test_glibc_takes_it():
    if platform.libc_ver()[0] == "glibc":
        assert keep_freed_memory() is True
    else:
        assert keep_freed_memory() in (True, False)
