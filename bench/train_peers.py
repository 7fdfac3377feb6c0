"""One peer in a process of its own: transformers.Trainer or TRL's SFTTrainer on given token ids.

Called by train.py as `python train_peers.py PEER case.json result.json`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

TARGETS = "all-linear"


class Clock(TrainerCallback):
    """When each step ended, in seconds since the process began to load."""

    def __init__(self, start: float):
        self.start = start
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **_):
        self.ends.append(time.perf_counter() - self.start)


def load(case: dict[str, Any]) -> tuple[torch.nn.Module, Any]:
    """Model and tokenizer: frozen weights in the compute type, trained ones in float32."""
    frozen = torch.bfloat16 if case["dtype"] == "bfloat16" and case["tuner"] == "lora" else None
    model = AutoModelForCausalLM.from_pretrained(case["model"], dtype=frozen or torch.float32)
    return model, AutoTokenizer.from_pretrained(case["model"])


def arguments(case: dict[str, Any], out: str) -> dict[str, Any]:
    """The same hyper-parameters for both peers, in the words of TrainingArguments."""
    return dict(
        output_dir=out, max_steps=case["steps"], per_device_train_batch_size=case["batch"],
        gradient_accumulation_steps=1, learning_rate=case["learning_rate"],
        lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
        train_sampling_strategy="sequential", seed=42, logging_steps=1, logging_first_step=True,
        save_strategy="steps", save_steps=case["save_steps"], save_total_limit=2,
        bf16=case["dtype"] == "bfloat16", use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip


def lora(case: dict[str, Any]) -> Any:
    from peft import LoraConfig

    if case["tuner"] != "lora":
        return None
    return LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )


def transformers_trainer(case: dict[str, Any], out: str, callback: Clock) -> Any:
    """transformers.Trainer with padding to the longest of the batch, its usual collator."""
    from peft import get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model, tokenizer = load(case)
    if config := lora(case):
        model = get_peft_model(model, config)
    return recording(Trainer)(
        model=model, args=TrainingArguments(**arguments(case, out)), callbacks=[callback],
        train_dataset=json.loads(Path(case["tokens"]).read_text()),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
    )  # fmt: skip


def trl_trainer(case: dict[str, Any], out: str, callback: Clock, **more: Any) -> Any:
    """TRL's SFTTrainer on the same ids; all else its default, but for activation checkpointing."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load(case)
    settings = SFTConfig(**{**arguments(case, out), **more}, max_length=1024)
    return recording(SFTTrainer)(
        model=model, args=settings, callbacks=[callback], processing_class=tokenizer,
        train_dataset=Dataset.from_list(json.loads(Path(case["tokens"]).read_text())),
        peft_config=lora(case),
    )  # fmt: skip


def trl_packing(case: dict[str, Any], out: str, callback: Clock) -> Any:
    """The same with TRL's packing: one epoch of the same chats, in rows of 1,024 tokens.

    A step holds about as many tokens as one of the others.
    """
    examples = json.loads(Path(case["tokens"]).read_text())
    mean = sum(len(example["input_ids"]) for example in examples) / len(examples)
    rows = max(1, round(case["batch"] * mean / 1024))
    steps = int(len(examples) * mean / 1024 / rows)
    more = dict(packing=True, max_steps=-1, num_train_epochs=1, per_device_train_batch_size=rows,
                save_steps=max(1, steps * 2 // 3))  # fmt: skip
    return trl_trainer(case, out, callback, **more)


def recording(trainer: type) -> type:
    """The trainer, keeping each step's loss unrounded (its log rounds) and its count of tokens."""

    class Recording(trainer):
        def __init__(self, **settings):
            self.losses: list[torch.Tensor] = []
            self.tokens: list[int] = []
            super().__init__(**settings)

        def compute_loss(self, model, inputs, *args, **kwargs):
            pad = self.processing_class.pad_token_id if self.processing_class else 0
            self.tokens.append(int((inputs["input_ids"] != pad).sum()))
            result = super().compute_loss(model, inputs, *args, **kwargs)
            loss = result[0] if isinstance(result, tuple) else result
            self.losses.append(loss.detach().clone())
            return result

    return Recording


PEERS = {
    "transformers": transformers_trainer,
    "trl": trl_trainer,
    "trl-packing": trl_packing,
}


def main() -> None:
    start = time.perf_counter()
    peer, case_file, result_file = sys.argv[1:]
    case = json.loads(Path(case_file).read_text())
    callback = Clock(start)
    trainer = PEERS[peer](case, case["out"], callback)
    trainer.train()
    losses = [float(loss) for loss in trainer.losses]
    found = {"ends": callback.ends, "losses": losses, "tokens": trainer.tokens}
    Path(result_file).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
