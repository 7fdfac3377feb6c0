"""Makes the pretraining corpus of `builtin:tiny`: JSON Lines of documents, the same every time.

    python -m tunesmith.assets.make_corpus TEXT_FOLDER OUT_FOLDER

TEXT_FOLDER holds public-domain books in the layout that `texts.py` names. Written are
`text.jsonl` (documents) and `chat.jsonl` (conversations), each with an `-eval` file whose rows
never occur in training.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tunesmith.assets import chinese, stories, talk, texts

STORIES, STORIES_ZH, PLAIN, PLAIN_ZH, CHANTS = 9_000, 2_500, 3_000, 1_000, 4_000
CHATS, CHATS_ZH = 22_000, 8_000
SYSTEM = (
    "You are a helpful assistant.",
    "You are Tiny, a small and friendly language model.",
    "Answer briefly.",
    "你是一个有用的助手。",
)


def conversation(rng: random.Random, zh: bool) -> dict:
    """One to four exchanges, sometimes with a system prompt."""
    messages = []
    if rng.random() < 0.25:
        messages.append({"role": "system", "content": rng.choice(SYSTEM)})
    for _ in range(rng.choices((1, 2, 3, 4), (55, 25, 12, 8))[0]):
        ask, answer = chinese.exchange(rng) if zh else talk.exchange(rng)
        messages.append({"role": "user", "content": ask})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


def plain(rng: random.Random, zh: bool) -> str:
    """Questions and answers without chat markup, as a page of a school book has them."""
    ask, answer = ("问：", "答：") if zh else ("Question: ", "Answer: ")
    pairs = [chinese.exchange(rng) if zh else talk.exchange(rng) for _ in range(rng.randint(2, 8))]
    return "\n".join(f"{ask}{question}\n{answer}{reply}" for question, reply in pairs)


def chant(words: list[str], rng: random.Random) -> str:
    """A line of random words two to four times over.

    What comes next can only be told by looking back, so these documents teach just that: without
    them a model of this size would need many times the tokens to learn to copy.
    """
    zh = rng.random() < 0.2
    chosen = rng.sample(list(chinese.WORDS) if zh else words, rng.randint(4, 12))
    return "\n".join([("" if zh else " ").join(chosen)] * rng.randint(2, 4))


def text_rows(folder: Path, rng: random.Random) -> Iterator[dict]:
    """Plain documents: books, chants, stories, school-book pages."""
    books = [*texts.english(folder), *texts.chinese(folder)]
    for text in books:
        yield {"text": text}
    words = sorted(set(re.findall(r"[A-Za-z]{2,9}", " ".join(books))))
    for _ in range(CHANTS):
        yield {"text": chant(words, rng)}
    for _ in range(STORIES):
        yield {"text": stories.story(rng)}
    for _ in range(STORIES_ZH):
        yield {"text": chinese.story(rng)}
    for count, zh in ((PLAIN, False), (PLAIN_ZH, True)):
        for _ in range(count):
            yield {"text": plain(rng, zh)}


def chat_rows(rng: random.Random) -> Iterator[dict]:
    """Conversations in OpenAI's form."""
    for count, zh in ((CHATS, False), (CHATS_ZH, True)):
        for _ in range(count):
            yield conversation(rng, zh)


def write(path: Path, rows: list[dict]) -> None:
    """JSON Lines, UTF-8 as it is."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), "utf-8")


def main(folder: Path, out: Path, seed: int = 7) -> None:
    """Writes text.jsonl, chat.jsonl and their held-out hundredth."""
    rng = random.Random(seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("text", text_rows(folder, rng)), ("chat", chat_rows(rng))):
        kept = list(rows)
        rng.shuffle(kept)
        cut = len(kept) // 100
        seen = {json.dumps(row, ensure_ascii=False) for row in kept[cut:]}
        held_out = [row for row in kept[:cut] if json.dumps(row, ensure_ascii=False) not in seen]
        write(out / f"{name}.jsonl", kept[cut:])
        write(out / f"{name}-eval.jsonl", held_out)
        size = (out / f"{name}.jsonl").stat().st_size
        print(f"{name}: {len(kept) - cut} rows, {size / 1e6:.1f} MB, {len(held_out)} held out")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
