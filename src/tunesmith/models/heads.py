"""Output heads: finding a model's embeddings and head, and the scalar head of reward models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import EnvironmentFault
from tunesmith.losses.tokens import Head, logits

# config field -> how it acts on the logits; a family with another rule is found out by `verify`
_SCALE = ("logit_scale",)
_DIVISOR = ("logits_scaling",)
_SOFTCAP = ("final_logit_softcapping",)


def output_head(hf: PreTrainedModel) -> nn.Module:
    """The module that maps hidden states to logits.

    Raises:
        EnvironmentFault: E208, the family has none (an encoder, a classifier).
    """
    head = hf.get_output_embeddings()
    if head is None:
        raise EnvironmentFault(
            "E208",
            f"{type(hf).__name__} has no language-model head",
            fix="choose a causal language model",
        )
    return head


def head_of(hf: PreTrainedModel) -> Head:
    """The head's tensors as they are now, with the family's logit scale and soft cap."""
    module: Any = output_head(hf)
    config = hf.config.get_text_config()
    fields = config.to_dict()
    scale = _first(fields, _SCALE, 1.0) / _first(fields, _DIVISOR, 1.0)
    bias = module.bias if isinstance(module, nn.Linear) else None
    return Head(module.weight, bias, scale, _first(fields, _SOFTCAP, None))


def verify(hf: PreTrainedModel) -> None:
    """Compares our reading of a head with the model's own logits for two tokens.

    Raises:
        EnvironmentFault: E211, the family's head computes something else.
    """
    trained = hf.training
    hf.eval()
    with torch.no_grad():
        ids = torch.tensor([[0, 1]], device=hf.device)
        hidden_D = hf.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
        expected_V = hf(input_ids=ids, use_cache=False).logits[0, -1].float()
        head = head_of(hf)
        found_V = logits(hidden_D.to(head.weight_VD.dtype)[None], head)[0].float()
    hf.train(trained)
    bound = 1e-4 if hf.dtype in (torch.float32, torch.float64) else 0.05
    if (found_V - expected_V).abs().max() > bound * expected_V.abs().max().clamp(min=1e-6):
        raise EnvironmentFault(
            "E211",
            f"the head of {hf.config.model_type} computes more than softcap(scale·(hW+b))",
            fix="this family can't be trained yet",
        )


def _first(fields: dict[str, Any], names: tuple[str, ...], default: Any) -> Any:
    values = [fields[name] for name in names if fields.get(name) is not None]
    return values[0] if values else default


class ScalarHead(nn.Module):
    """One number per token: a linear layer without bias, drawn from N(0, 1/(D+1)).

    Source of the scale: Stiennon et al., arXiv:2009.01325, appendix B.1.
    """

    def __init__(self, width: int):
        super().__init__()
        self.summary = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.summary.weight, std=(width + 1) ** -0.5)

    def forward(self, hidden_SD: Tensor) -> Tensor:
        """Scores in float32, shape (S,)."""
        return self.summary(hidden_SD.to(self.summary.weight.dtype)).squeeze(-1).float()
