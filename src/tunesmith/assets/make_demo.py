"""Makes the demo's task set: sentences in English and Chinese into a small command language.

    python -m tunesmith.assets.make_demo OUT_FOLDER

“Turn on the lamp in the kitchen.” becomes `kitchen.lamp = on`. The base model has never seen the
language. No command of `eval.jsonl` or `test.jsonl` (room, device and state together) occurs in
another file, so what is measured is the rule, not memory. The recipe was chosen by `eval.jsonl`;
`test.jsonl` was never looked at for that, and is what the demo reports. `chat.jsonl` is
small talk to mix in, without which the model would answer a greeting with a command;
`stories.jsonl` is text to pretrain on.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tunesmith.assets import chinese, stories, talk
from tunesmith.assets.spin import spin

ROOMS = {
    "kitchen": "厨房",
    "bedroom": "卧室",
    "bathroom": "浴室",
    "garage": "车库",
    "office": "办公室",
    "hall": "走廊",
    "garden": "花园",
}
DEVICES = {"lamp": "灯", "fan": "风扇", "radio": "收音机", "curtain": "窗帘", "window": "窗户"}
SWITCHED = ("lamp", "fan", "radio")
DEGREES = range(16, 25)
ON = {
    "on": (
        "[Turn on|Switch on|Please turn on] the {device} in the {room}.",
        "[打开|请打开|开一下]{room_zh}的{device_zh}。",
    ),
    "off": (
        "[Turn off|Switch off|Please turn off] the {device} in the {room}.",
        "[关掉|请关掉|关一下]{room_zh}的{device_zh}。",
    ),
    "open": (
        "[Open|Please open] the {device} in the {room}.",
        "[打开|请打开]{room_zh}的{device_zh}。",
    ),
    "closed": (
        "[Close|Please close|Shut] the {device} in the {room}.",
        "[关上|请关上]{room_zh}的{device_zh}。",
    ),
}
HEATER = (
    "[Set the heater in the {room} to {state} degrees.|Please heat the {room} to {state} degrees.]",
    "[把{room_zh}的暖气调到{state}度。|{room_zh}要{state}度。]",
)
Command = tuple[str, str, str]


def commands() -> list[Command]:
    """Every (room, device, state)."""
    every = []
    for room in ROOMS:
        for device in DEVICES:
            states = ("on", "off") if device in SWITCHED else ("open", "closed")
            every += [(room, device, state) for state in states]
        every += [(room, "heater", str(degrees)) for degrees in DEGREES]
    return every


def row(command: Command, rng: random.Random, zh: bool) -> dict:
    """One conversation that asks for the command."""
    room, device, state = command
    pattern = (ON[state] if device != "heater" else HEATER)[zh]
    fill = {"room": room, "device": device, "state": state, "room_zh": ROOMS[room]}
    fill["device_zh"] = DEVICES.get(device, "暖气")
    return conversation(spin(pattern, rng, fill), f"{room}.{device} = {state}")


def pair(chat: dict, rng: random.Random) -> dict:
    """The conversation with a wrong answer beside the right one: one part of the command is off."""
    question, answer = chat["messages"]
    room, rest = answer["content"].split(".")
    right = (room, *rest.split(" = "))
    off = rng.choice([c for c in commands() if sum(map(str.__ne__, c, right)) == 1])
    wrong = {"role": "assistant", "content": "{}.{} = {}".format(*off)}
    return {"prompt": [question], "chosen": [answer], "rejected": [wrong]}


def conversation(question: str, answer: str) -> dict:
    """One exchange in OpenAI's form."""
    roles = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return {"messages": list(roles)}


def main(out: Path, seed: int = 3, per_command: int = 9) -> None:
    """Writes train, eval and test (a fifth of the commands each), pairs, chat and stories."""
    rng = random.Random(seed)
    every = commands()
    held_out = set(rng.sample(every, len(every) // 5))
    tested = set(random.Random(seed + 1).sample([c for c in every if c not in held_out], 26))
    train, held, test = [], [], []
    for command in every:
        count = 4 if command in held_out else per_command
        drawn = [
            json.dumps(row(command, rng, at % 2 == 1), ensure_ascii=False) for at in range(count)
        ]
        lines = list(dict.fromkeys(drawn))  # each once
        if command in tested:
            test += lines[:4]
        else:
            (held if command in held_out else train).extend(lines)
    for rows in (train, held, test):
        rng.shuffle(rows)
    texts = [chinese.story(rng) if at % 5 == 4 else stories.story(rng) for at in range(300)]
    said = [(chinese if at % 3 == 2 else talk).small_talk(rng) for at in range(90)]
    chat = [json.dumps(conversation(*pair), ensure_ascii=False) for pair in said]
    told = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    paired = [pair(json.loads(line), rng) for line in train]
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in {
        "pairs": [json.dumps(row, ensure_ascii=False) for row in paired],
        "train": train,
        "eval": held,
        "test": test,
        "chat": chat,
        "stories": told,
    }.items():
        (out / f"{name}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
