"""LAW: for the same examples in a Step, the loss and its gradient do not depend on how they are
laid out: accumulation, packing, padding on either side, order, number of ranks."""

from __future__ import annotations

import pytest
import torch

from tunesmith.training.loop import total, total_units


def layouts(lay, count):
    """Name → list of ranks, each a Step (list of Batches)."""
    rows = range(count)
    half = count // 2
    return {
        "accumulated one by one": [[lay([row]) for row in rows]],
        "accumulated two by two": [[lay(rows[:half]), lay(rows[half:])]],
        "reversed order": [[lay(rows[::-1])]],
        "padded right": [[lay(rows, padded=True, padding_side="right")]],
        "padded left": [[lay(rows, padded=True, padding_side="left")]],
        "two ranks": [[lay(rows[:1])], [lay(rows[1:])]],
        "shared prompts": [[lay(rows, share_prompts=True)]],
    }


def gradient(model, stage, ranks):
    """The summed gradient and loss that `fit` would form over all ranks."""
    model.zero_grad()
    counts = [total_units(step) for step in ranks]
    units = {name: sum(count.get(name, 0.0) for count in counts) for name in counts[0]}
    value = 0.0
    for step in ranks:
        for batch in step:
            loss = total(stage.loss(model, batch), units)
            loss.backward()
            value += loss.item()
    flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return value, torch.cat(flat)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_layout_does_not_change_the_gradient(stage, items, lay, model_of, dtype, bound):
    model = model_of(dtype).eval()
    loss, reference = gradient(model, stage, [[lay(range(len(items)))]])
    assert reference.norm() > 0
    for name, ranks in layouts(lay, len(items)).items():
        other_loss, other = gradient(model, stage, ranks)
        assert abs(other_loss - loss) <= bound * abs(loss), name
        assert (other - reference).norm() <= bound * reference.norm(), name


def test_neighbours_in_a_pack_do_not_see_each_other(stage, items, lay, model_of):
    model = model_of(torch.float64).eval()
    rows = range(len(items))
    parts = (stage.loss(model, lay(some)).terms for some in (rows[:1], rows[1:], rows))
    alone, others, together = parts
    for name, term in together.items():
        assert abs(term.sum - alone[name].sum - others[name].sum) <= 1e-10 * abs(term.sum)
