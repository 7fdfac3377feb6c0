"""Fixtures for all tests: deterministic, offline, one thread, a home of their own."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests import tiny

# Properties are tried on the same examples everywhere: a test that fails, fails for everyone.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

# Before torch is imported anywhere: tests must not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A job that a shell runs in the background inherits that Ctrl-C is ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory):
    """Caches and the run index go to a temporary home."""
    os.environ["TUNESMITH_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own_home(tmp_path_factory, monkeypatch) -> Path:
    """An empty home for one test, but for what is known of the machine.

    Without it every such test would measure the machine anew, in a child that imports torch.
    """
    from tunesmith import platform

    platform.probe()
    known = platform.home() / "machine.json"
    path = tmp_path_factory.mktemp("own-home")
    if known.exists():
        shutil.copy(known, path)
    monkeypatch.setenv("TUNESMITH_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and data sets; skips where it is not beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("TUNESMITH_TEST_DATA", beside))
    if not path.is_dir():
        pytest.skip("real material not found: set TUNESMITH_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random Llama of 2 layers with a byte tokenizer and ChatML: a plain transformers folder."""
    path = tmp_path_factory.mktemp("tiny-model")
    size = byte_tokenizer(path)
    ids = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 256}
    tiny.llama(vocab_size=size, tie_word_embeddings=True, **ids).save_pretrained(path)
    return path


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(path: Path) -> int:
    """Writes a byte-level tokenizer of 256 bytes and four special tokens; returns its size."""
    import json

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|eot|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "chat_template": CHATML,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()
