"""Stores a finished run as the embedded model: bfloat16, one file, plain transformers layout.

    python -m tunesmith.assets.make_tiny RUN_FINAL OUT_FOLDER

RUN_FINAL is the `final/` of the last run (recipes in assets/tiny). The tokenizer's files in
OUT_FOLDER stay as `make_tokenizer` wrote them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ENDS = [0, 2]
"""Ids of <|endoftext|> and <|im_end|>: documents end with the first, answers with the second."""


def main(final: Path, out: Path) -> None:
    """Writes model.safetensors, config.json and generation_config.json."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(final / "model.safetensors")
    tensors.pop("lm_head.weight", None)  # tied to the embeddings
    half = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    config = json.loads((final / "config.json").read_text()) | {"dtype": "bfloat16"}
    write(out / "config.json", config)
    write(out / "generation_config.json", {"eos_token_id": ENDS, "pad_token_id": 3})
    print(f"{sum(t.numel() for t in half.values()) / 1e6:.2f}M parameters")


def write(path: Path, value: dict) -> None:
    """JSON with sorted keys, for diffs that show what changed."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
