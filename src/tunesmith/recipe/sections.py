"""The recipe as frozen dataclasses: the one truth about what can be configured.

The docstring under a field feeds `--help`, the docs, the JSON Schema and the web form. Leaf names
are those of transformers, TRL and PEFT. A stage, tuner or backend brings its own Config class with
a `kind`; a bare string is shorthand for `{kind: …}` (stage, tuner, parallel) or `{path: …}`
(model, data sources).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.types import Truncation

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Quantization:
    """Frozen weights of linear layers in few bits; the head and embeddings stay as they are."""

    kind: Literal["bnb", "bnb4", "bnb8"] = "bnb"
    """bitsandbytes; bnb4 and bnb8 say the bits too."""
    bits: Literal[4, 8] | None = None
    """4 (default), or 8: LLM.int8()."""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """Four bits: quantiles of a normal distribution, or small floats."""
    double_quant: bool = True
    """Four bits: quantise the scales too, which saves 0.4 bits a weight."""

    def __post_init__(self) -> None:
        said = {"bnb4": 4, "bnb8": 8}.get(self.kind)
        if said and self.bits not in (None, said):
            raise ValueError(f"kind is {self.kind} and bits {self.bits}")
        object.__setattr__(self, "bits", said or self.bits or 4)
        object.__setattr__(self, "kind", "bnb")

    @property
    def name(self) -> str:
        """`bnb4`, as it is written in short."""
        return f"{self.kind}{self.bits}"


@dataclass(frozen=True)
class ModelConfig:
    """The model to start from: a path, or a config from scratch."""

    path: str | None = None
    """Directory, `builtin:NAME`, run (`run:last`, a run id) or hub id."""
    config: Mapping[str, Any] | None = None
    """From scratch: the model's config, with `model_type`; weights are drawn from train.seed."""
    tokenizer: str | None = None
    """Directory or `builtin:NAME`; default: the model's own. Needed with `config`."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    cache_dir: str | None = None
    """Hub cache directory; default: huggingface's own."""
    dtype: Dtype = "auto"
    """Type of the frozen weights in memory; auto: the compute type of the run."""
    attention: Literal["auto", "flash", "flex", "sdpa", "eager"] = "auto"
    """Attention for packed batches; auto takes the fastest that works here and says which."""
    kernels: Literal["auto", "eager", "fused", "compiled", "liger"] = "auto"
    """Fused RMSNorm, RoPE and SwiGLU; auto takes the fastest for the length of this run."""
    rope_scaling: Mapping[str, Any] | None = None
    """RoPE scaling in transformers' `rope_parameters` form, set before the model is built."""
    quantize: Quantization | None = None
    """bnb4, bnb8 or {kind: bnb, bits: 4}: weights quantised while they load; LoRA trains beside."""


@dataclass(frozen=True)
class Source:
    """One data file, folder or set."""

    path: str
    """File, folder, `builtin:NAME`, `hf:ORG/NAME`, a data set's name, or `rows.py:function`."""
    format: str | None = None
    """Row format (a file of data/formats); default: detected from the first rows, and said."""
    columns: Mapping[str, str] | None = None
    """Column names by role, e.g. {prompt: q, completion: a}."""
    weight: float = 1.0
    """Factor on the token weights of this source."""
    system: str | None = None
    """System prompt for rows that have none; overrides data.system for this source."""
    max_samples: int | None = None
    """Use only the first so many rows."""
    fill: Mapping[str, str] | None = None
    """Texts for placeholders in the rows: {name: Ada} fills <NAME>, {{name}} and {{NAME}}."""
    subset: str | None = None
    """Hub sets and folders: the configuration; default: the only one."""
    split: str | None = None
    """Hub sets and folders with splits: which one; default: train."""
    revision: str | None = None
    """Hub sets: branch, tag or commit; default: the newest when it is first fetched."""


@dataclass(frozen=True)
class Holdout:
    """Evaluation rows taken from the training rows: a fraction, a count or a split."""

    fraction: float | None = None
    """Share of the training rows, 0 to 1, drawn by train.seed."""
    count: int | None = None
    """Number of training rows, drawn by train.seed."""
    split: str | None = None
    """Shares of training, validation and test documents in their order: "949,50,1"."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how rows become tokens."""

    train: tuple[Source, ...] = ()
    """Training data; a string or list of strings is shorthand for paths."""
    eval: tuple[Source, ...] | Holdout | None = None
    """Evaluation data: files, {fraction: 0.05}, {count: 100}, {split: "949,50,1"}; default none."""
    template: str = "auto"
    """Chat template: auto (the model's own), a name of templates/, or a .jinja/.toml file."""
    system: str | None = None
    """System prompt for conversations without one; an empty string forces none."""
    max_length: int = 1024
    """Longest example in tokens; with packing: pack, also the size of a bin."""
    on_overlength: Literal["truncate", "skip", "error"] = "truncate"
    """Longer conversations: cut by `truncation`; or list and skip; or stop."""
    max_prompt_length: int | None = None
    """Longest prompt before an answer, in tokens; default: only max_length counts."""
    max_answer_length: int | None = None
    """Longest answer with its end marker, in tokens; default: only max_length counts."""
    truncation: Truncation = "newest_rounds"
    """What stays of a longer conversation: newest_rounds keeps the system prompt, markup and end
    markers; the other rules are those of older systems, see docs/templates.md."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Rows that can't be read or have nothing to train: stop, or list and skip."""
    on_finding: Literal["error", "warn"] = "error"
    """A MAJOR finding of `tunesmith data check`, which runs before every training: stop, or say it
    and go on."""
    packing: Literal["none", "pack", "blocks"] = "none"
    """none: examples laid end to end, no padding; pack: best-fit bins of max_length; blocks:
    documents joined and cut into max_length (pretrain only)."""
    mix_strategy: Literal["concat", "interleave_under", "interleave_over"] = "concat"
    """Several sources: every row once; or in turn until the first one (under) or every one (over)
    has been seen whole."""
    interleave_probs: tuple[float, ...] | None = None
    """Chance of each source where sources interleave; default: in turn."""
    shuffle: bool = True
    """Shuffle rows each epoch by (train.seed, epoch)."""
    buffer_size: int | None = None
    """Shuffle with a buffer of so many rows that reads the store from its beginning to its end, for
    corpora larger than memory on slow disks; default: draw from all rows."""
    streaming: bool = False
    """Read, encode and shuffle rows while training, through a buffer of buffer_size rows (default
    10,000): for sources larger than the disk and sets of the hub. Needs train.max_steps."""
    dataset_info: str | None = None
    """A dataset_info.json (LLaMA-Factory's), or its folder: its names can be used as paths."""
    cache_dir: str | None = None
    """Hub cache directory for data sets; default: huggingface's own."""
    input_joiner: str = "\n"
    """Text between `instruction` and `input` of alpaca rows."""
    num_proc: int | None = None
    """Encoding processes; default: all cores."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, in which numbers."""

    num_train_epochs: float = 1.0
    """Passes over the training rows; ignored when max_steps is set."""
    max_steps: int | None = None
    """Stop after so many updates."""
    per_device_train_batch_size: int = 4
    """Examples (packing: none) or bins (packing: pack) in a micro-batch."""
    gradient_accumulation_steps: int = 1
    """Micro-batches summed into one update."""
    max_forward_tokens: int | Literal["auto"] | None = "auto"
    """Tokens in one forward pass: a larger micro-batch is cut at borders of rows, which changes the
    memory it takes and nothing else. auto: 1024 on a CPU, no limit (null) on a GPU."""
    dtype: Dtype = "auto"
    """Compute type; auto: bfloat16 where it works and is faster, else float32."""
    master_weights: bool = True
    """Keep trained weights in float32 and compute in dtype; false: train weights cast to dtype."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    seed: int = 42
    """Seed of every draw: order, dropout, noise, new weights."""
    save_steps: int | Literal["epoch", "no"] = 500
    """Checkpoint every so many steps, each epoch, or only at the end ("no")."""
    save_total_limit: int | None = 2
    """Keep the newest so many checkpoints, plus the best; null: all."""
    logging_steps: int = 10
    """Write metrics every so many steps."""
    logging_first_step: bool = True
    """Write metrics of step 1 too."""
    threads: int | None = None
    """CPU threads; default: one per core. Resolved once and kept on resume."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: float = 2e-4
    """Peak learning rate."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "wsd"] = "cosine"
    """linear, cosine, constant or wsd (warmup-stable-decay), after warm-up."""
    warmup_steps: float = 0.0
    """Linear warm-up: a share of all steps if below 1, else a number of steps."""
    decay_steps: float = 0.2
    """wsd only: length of the final decay, as a share if below 1, else in steps."""
    min_learning_rate: float = 0.0
    """Learning rate at the end of the decay."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only (no biases, no norms)."""
    adam_beta1: float = 0.9
    """AdamW's first-moment decay."""
    adam_beta2: float = 0.999
    """AdamW's second-moment decay."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm; 0: never clip."""
    implementation: Literal["auto", "fused", "foreach"] = "auto"
    """How torch runs AdamW; auto takes fused where the device has it."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation during training."""

    steps: int | Literal["epoch", "no"] = "epoch"
    """Evaluate every so many steps or each epoch, and at the last step; or never ("no"). Needs
    data.eval."""
    per_device_eval_batch_size: int | None = None
    """Examples in an evaluation batch; default: the training batch size."""
    generate: int = 0
    """At each evaluation, answer so many evaluation prompts into samples.jsonl."""
    metric_for_best_model: str = "eval_loss"
    """Metric that names the best checkpoint."""
    greater_is_better: bool = False
    """Whether a larger metric is better."""
    load_best_model_at_end: bool = False
    """final/ is the best checkpoint (true) or the last step (false)."""


@dataclass(frozen=True)
class OutputConfig:
    """Where runs go."""

    dir: str = "runs/"
    """Folder of run directories."""
    name: str | None = None
    """Run id; default: date, stage, model and four random characters."""


@dataclass(frozen=True)
class LogConfig:
    """What is reported, and to whom."""

    report_to: tuple[str, ...] = ()
    """Beside metrics.jsonl: tensorboard, wandb (offline, inside the run directory)."""


@dataclass(frozen=True)
class Recipe:
    """A recipe names a model, a tuner, data, a template and a stage."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model to start from."""
    stage: Any = "sft"
    """What is trained: a file of stages/ by `kind`."""
    tuner: Any = "lora"
    """Which parameters are trained: a file of tuners/ by `kind`."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training and evaluation data."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, batch, numbers, checkpoints."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation during training."""
    parallel: Any = "single"
    """Backend: a file of parallel/ by `kind`."""
    output: OutputConfig = field(default_factory=OutputConfig)
    """Run directories."""
    log: LogConfig = field(default_factory=LogConfig)
    """Reports."""

    @classmethod
    def load(cls, path: str | None, overrides: Sequence[str] = ()) -> Recipe:
        """Reads a recipe file strictly; see `tunesmith.recipe.load`."""
        from tunesmith.recipe import load

        return load(path, overrides)
