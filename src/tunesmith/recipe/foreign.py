"""Old names and other tools' names: never accepted, always answered with today's key."""

from __future__ import annotations

import re

# Name elsewhere -> today's key, or a sentence where no single key takes its place.
TODAY: dict[str, str] = {
    # models and tokenizers
    "model_name_or_path": "model.path",
    "model_name": "model.path",
    "base_model": "model.path",
    "model_id": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "model_id_or_path": "model.path",
    "tokenizer_name": "model.tokenizer",
    "tokenizer_name_or_path": "model.tokenizer",
    "model_revision": "model.revision",
    "torch_dtype": "model.dtype",
    "attn_implementation": "model.attention",
    "flash_attn": "model.attention",
    "flash_attention": "model.attention",
    "use_flash_attn": "model.attention",
    "attn_impl": "model.attention",
    "use_liger_kernel": "model.kernels",
    "enable_liger_kernel": "model.kernels",
    "trust_remote_code": "nothing: code that comes with a model is never run",
    "adapter_name_or_path": "model.path (a run or an adapter folder is a model)",
    # stage and tuner
    "finetuning_type": "tuner",
    "tuner_type": "tuner",
    "train_type": "tuner",
    "sft_type": "tuner",
    "peft_type": "tuner",
    "adapter": "tuner",
    "use_peft": "tuner: lora",
    "lora": "tuner: lora",
    "rlhf_type": "stage",
    "training_stage": "stage",
    "rl": "stage",
    "do_train": "nothing: `tunesmith train` trains",
    "do_eval": "eval.steps",
    "do_predict": "nothing: use `tunesmith generate`",
    "lora_rank": "tuner.r",
    "lora_r": "tuner.r",
    "lora_target": "tuner.target_modules",
    "lora_target_modules": "tuner.target_modules",
    "lora_target_linear": "tuner.target_modules: all-linear",
    "additional_target": "tuner.modules_to_save",
    "lora_modules_to_save": "tuner.modules_to_save",
    "freeze_trainable_layers": "tuner: {kind: freeze, …}",
    "pref_beta": "stage.beta",
    "dpo_beta": "stage.beta",
    "pref_loss": "stage.loss_type",
    # data
    "dataset": "data.train",
    "dataset_dir": "data.dataset_info (a dataset_info.json, or its folder)",
    "datasets": "data.train",
    "dataset_path": "data.train",
    "train_file": "data.train",
    "train_files": "data.train",
    "data_path": "data.train",
    "train_dataset": "data.train",
    "eval_dataset": "data.eval",
    "val_dataset": "data.eval",
    "validation_file": "data.eval",
    "val_size": "data.eval: {fraction: …}",
    "val_set_size": "data.eval: {fraction: …}",
    "split_dataset_ratio": "data.eval: {fraction: …}",
    "cutoff_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "sequence_len": "data.max_length",
    "model_max_length": "data.max_length",
    "block_size": "data.max_length",
    "max_source_length": "data.max_prompt_length",
    "max_target_length": "data.max_answer_length",
    "max_prompt_len": "data.max_prompt_length",
    "max_completion_length": "data.max_answer_length",
    "src_length": "data.max_prompt_length",
    "truncation_side": "data.truncation",
    "chat_template": "data.template",
    "template_type": "data.template",
    "prompt_template": "data.template",
    "default_system": "data.system",
    "system_prompt": "data.system",
    "truncation_strategy": "data.on_overlength",
    "sample_packing": "data.packing: pack",
    "neat_packing": "data.packing: pack",
    "group_by_length": "data.packing: pack",
    "preprocessing_num_workers": "data.num_proc",
    "dataset_num_proc": "data.num_proc",
    "dataset_processes": "data.num_proc",
    "dataloader_num_workers": "nothing: batches come from a memory-mapped store",
    "overwrite_cache": "nothing: the token store is keyed by what it holds",
    "remove_unused_columns": "nothing: unused columns are ignored",
    "max_samples_per_dataset": "data.train: [{path: …, max_samples: …}]",
    # training
    "num_epochs": "train.num_train_epochs",
    "epochs": "train.num_train_epochs",
    "n_epochs": "train.num_train_epochs",
    "max_epochs": "train.num_train_epochs",
    "max_train_steps": "train.max_steps",
    "total_steps": "train.max_steps",
    "batch_size": "train.per_device_train_batch_size",
    "train_batch_size": "train.per_device_train_batch_size",
    "micro_batch_size": "train.per_device_train_batch_size",
    "per_gpu_train_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "eval.per_device_eval_batch_size",
    "grad_accum": "train.gradient_accumulation_steps",
    "gradient_accumulation": "train.gradient_accumulation_steps",
    "accumulation_steps": "train.gradient_accumulation_steps",
    "bf16": "train.dtype: bfloat16",
    "fp16": "train.dtype: float16",
    "fp32": "train.dtype: float32",
    "pure_bf16": "train.master_weights: false",
    "mixed_precision": "train.dtype",
    "precision": "train.dtype",
    "gradient_checkpointing": "train.activation_checkpointing",
    "recompute": "train.activation_checkpointing",
    "random_seed": "train.seed",
    "data_seed": "train.seed",
    "save_strategy": "train.save_steps (a number, epoch or no)",
    "save_interval": "train.save_steps",
    "logging_strategy": "train.logging_steps",
    "logging_interval": "train.logging_steps",
    "max_checkpoints": "train.save_total_limit",
    "use_cpu": "nothing: CUDA_VISIBLE_DEVICES= hides the devices",
    "no_cuda": "nothing: CUDA_VISIBLE_DEVICES= hides the devices",
    "resume_from_checkpoint": "nothing: use `tunesmith resume RUN`",
    # optimizer
    "lr": "optim.learning_rate",
    "warmup_ratio": "optim.warmup_steps (a share of all steps if below 1)",
    "num_warmup_steps": "optim.warmup_steps",
    "lr_scheduler": "optim.lr_scheduler_type",
    "scheduler": "optim.lr_scheduler_type",
    "lr_scheduler_kwargs": "optim.min_learning_rate and optim.decay_steps",
    "min_lr": "optim.min_learning_rate",
    "beta1": "optim.adam_beta1",
    "beta2": "optim.adam_beta2",
    "eps": "optim.adam_epsilon",
    "gradient_clipping": "optim.max_grad_norm",
    "grad_clip": "optim.max_grad_norm",
    "max_norm": "optim.max_grad_norm",
    "optimizer": "optim (AdamW; optim.implementation chooses its kernel)",
    # evaluation
    "evaluation_strategy": "eval.steps (a number, epoch or no)",
    "eval_strategy": "eval.steps (a number, epoch or no)",
    "eval_steps": "eval.steps",
    "evals_per_epoch": "eval.steps: epoch",
    "predict_with_generate": "eval.generate",
    # output
    "output_dir": "output.dir",
    "overwrite_output_dir": "nothing: every run has a directory of its own",
    "run_name": "output.name",
    "logging_dir": "nothing: logs lie in the run directory",
    "use_wandb": "log.report_to: [wandb]",
    "wandb_project": "log.report_to: [wandb]",
    "deepspeed": "parallel: {kind: deepspeed, config: …}",
    "fsdp": "parallel: fsdp",
    "fsdp_config": "parallel: {kind: fsdp, …}",
    "ddp_timeout": "parallel: ddp",
    "ddp_find_unused_parameters": "parallel: ddp",
}

_SECRET_KEY = re.compile(
    r"(^|_)(api_?keys?|apikey|password|passwd|secrets?|secret_key|access_?token|auth_?token"
    r"|hf_token|hub_token|hub_api_token|private_key|access_key(_id)?|credentials?)$|^token$"
)
_SECRET_VALUE = re.compile(
    r"(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})"
)


def is_secret(key: str, value: object) -> bool:
    """Whether a key, or the form of its value, looks like a credential."""
    if _SECRET_KEY.search(key.lower()) and value not in (None, "", False):
        return True
    return isinstance(value, str) and _SECRET_VALUE.search(value) is not None


def today(key: str) -> str:
    """Today's key for a name of another tool, or an empty string."""
    return TODAY.get(key) or TODAY.get(key.lower().replace("-", "_"), "")
