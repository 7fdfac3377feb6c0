"""The torch engine with a compiled step for a request that is alone: `--engine compiled`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.generation.torch import TorchGenerator

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer


class CompiledGenerator(TorchGenerator):
    """A TorchGenerator whose decoding of one request goes through torch.compile.

    Prompts, and several requests at once, go the torch engine's way, which is faster there. The
    step is compiled when the generator is made, tried against the uncompiled one, and left out
    where it can't be had; `notes` says which.

    Args:
        model: As TorchGenerator's.
        tokenizer: As TorchGenerator's.
        max_rows: As TorchGenerator's.
        cache_tokens: As TorchGenerator's.
        window: As TorchGenerator's.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        *,
        max_rows: int = 32,
        cache_tokens: int | None = None,
        window: int | tuple[int, int] | None = None,
    ):
        from tunesmith.generation import compiled_impl

        super().__init__(
            model,
            tokenizer,
            max_rows=max_rows,
            cache_tokens=cache_tokens,
            window=window,
        )
        note = compiled_impl.install(self._engine)
        self._engine.notes.append(note)
