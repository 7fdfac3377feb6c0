"""LAW: kill a run that learns from its own answers anywhere in a round: while they are sampled,
scored or learned from, or a save is written. Resumed, it ends bit for bit as if nobody had."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
import yaml

from tests.crash import test_kill_training as training
from tests.crash.conftest import memory_folder
from tests.crash.faults import CALLS
from tests.crash.test_kill_training import Stand, of_save, stand_in
from tunesmith.training import checkpoint

pytestmark = pytest.mark.slow
trainer = training.trainer

LENGTH = {"rewards": [{"path": "length", "argument": "4"}], "max_completion_length": 6}
LORA = {"kind": "lora", "r": 4, "lora_dropout": 0.1}
SETUPS = {
    "ppo": {  # rounds of six updates of which saves are made every two: within a round, and at 6
        "stage": {**LENGTH, "kind": "ppo", "num_ppo_epochs": 3, "num_mini_batches": 2,
                  "normalize_scores": True, "kl_target": 1.0},
        "tuner": LORA,
        "packing": "none",
    },
    "ppo-full": {
        "stage": {**LENGTH, "kind": "ppo", "num_ppo_epochs": 2, "entropy_coef": 0.01},
        "tuner": "full",
        "packing": "none",
    },
    "grpo": {
        "stage": {**LENGTH, "kind": "grpo", "num_generations": 3, "num_iterations": 3,
                  "beta": 0.1},
        "tuner": LORA,
        "packing": "none",
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=SETUPS)
def stand(request, trainer, tiny_model, tmp_path_factory) -> Iterator[Stand]:
    with memory_folder(tmp_path_factory.mktemp("stand")) as folder:
        yield stand_in(folder, SETUPS[request.param], trainer, tiny_model)


@pytest.fixture(scope="module")
def calls(stand) -> dict[str, int]:
    """How often each function of a round is called in a whole run."""
    path = stand.folder / "calls.json"
    answer = stand.train(count=str(path))
    assert answer.code == 0, answer.output
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_within_a_round(stand, calls, name, share):
    number = int(share * calls[name])
    assert stand.train(call=name, number=number).killed
    stand.finish()


def test_killed_again_while_it_goes_on(stand, calls):
    """In the middle of an update, then among the tokens of the resumed run, then in its updates."""
    assert stand.train(call="update", number=3).killed
    assert checkpoint.newest(stand.run).step == 2
    assert stand.resume(call="token", number=2).killed
    assert stand.resume(call="update", number=1).killed
    assert checkpoint.newest(stand.run).step == 2
    assert "from step 2" in stand.finish()


@pytest.mark.parametrize("kind", ["kill", "torn", "power"])
def test_killed_while_a_round_in_hand_is_saved(stand, kind):
    save = of_save(stand.operations, 4)
    for at in (save[len(save) // 2], save[-4]):
        assert stand.train(at=at, kind=kind).killed
        stand.finish()


def test_a_save_within_a_round_holds_its_answers(stand):
    after = of_save(stand.operations, 4)[-1] + 1
    assert stand.train(at=after, kind="kill").killed
    saved = checkpoint.newest(stand.run)
    assert saved.step == 4
    stage = yaml.safe_load(stand.recipe.read_text())["stage"]
    several = ("num_ppo_epochs", "num_mini_batches", "num_iterations")
    size = math.prod(stage.get(name, 1) for name in several)
    assert ("round" in saved.state["stage"]) is bool(saved.step % size)
    assert "from step 4" in stand.finish()
