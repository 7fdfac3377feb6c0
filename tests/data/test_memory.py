"""Corpora larger than the memory a process may have: encoded, checked and read all the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tunesmith.data import corpus

LIMIT = 250 << 20
"""Bytes of memory of its own that the child may have, beside files it maps; the text has 300 MB."""
CHILD = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
from pathlib import Path
from tunesmith.cli.main import main
assert main(["data", "tokenize", sys.argv[1], "-o", sys.argv[2], "--to", "megatron"]) == 0
from tunesmith.data import tokenised
from tunesmith.data.loader import Loader
from tunesmith.recipe.sections import DataConfig, Source
wanted = tokenised.Wanted({{}}, 70_000, True, Path(sys.argv[2]).parent / "home")
data = tokenised.open_source(Source(sys.argv[2]), DataConfig(max_length=1024), wanted)
loader = Loader(dataset=data, seed=1, batch_size=8, max_length=1024, packing="blocks")
blocks = [block for index in range(200) for block in loader._units_of(index)]
tokens = sum(len(block.example().ids_T) - 1 for block in blocks)
# Not ru_maxrss, which counts what the process was before exec: a test runner of any size.
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) >> 10
print(json.dumps([len(data), int(data.lengths.sum()), tokens, peak]))
"""


@pytest.mark.slow
def test_300_megabytes_of_text_in_less_memory_than_that(tmp_path):
    line = "The miller by the river ground {} sacks of rye before the bells rang over the town.\n"
    text = tmp_path / "text.txt"
    with text.open("w") as stream:
        for start in range(0, 3_600_000, 10_000):
            stream.writelines(
                line.format(i) + ("\n" if i % 50 == 49 else "")
                for i in range(start, start + 10_000)
            )
    assert text.stat().st_size > 290 << 20
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(limit=LIMIT), str(text), str(tmp_path / "corpus")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    items, tokens, read, peak = json.loads(done.stdout.splitlines()[-1])
    assert tokens > 30_000_000
    assert items > 70_000
    assert read == 200 * 8 * 1023
    made = corpus.open_corpus(tmp_path / "corpus")
    assert len(made.length_D) == 72_000
    assert peak < 700  # megabytes, the pages of the mapped corpus among them
