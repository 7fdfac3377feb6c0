"""Short children's stories made from plots, names and things: plain words, much repetition.

A model of a few million parameters learns to write such text in half an hour on one core, which
it never would from novels alone.
"""

# ruff: noqa: SIM905  (word lists read better as one string)
from __future__ import annotations

import random
import re

from tunesmith.assets.spin import article, sentence, spin

GIRLS = "Lily Anna Mia Rosa Emma Clara Nora Sue Ruth Ella Amy Jane Kate Lucy Mei".split()
BOYS = "Tom Ben Max Sam Jack Leo Tim Dan Paul Fred Will Oscar Hugo Finn Wei".split()
ANIMALS = (
    "cat dog rabbit mouse bird duck frog fox bear owl squirrel turtle horse pig sheep goat hen "
    "fish bee lion elephant monkey"
).split()
COLOURS = "red blue green yellow white black brown pink orange purple".split()
THINGS = (
    "ball kite book hat boat drum doll key lamp bell cup box coat scarf basket spoon ring flute "
    "map shell feather ribbon bottle blanket umbrella"
).split()
FOODS = "apple cake pear soup bread honey carrot cookie plum egg nut berry pie cheese melon".split()
PLACES = (
    "park|garden|forest|house|kitchen|river|school|market|field|beach|hill|barn|lake|village|"
    "street|bridge|library|playground|farm|mountain"
).split("|")
TRAITS = "little kind brave clever happy quiet funny curious shy gentle small young".split()
PEOPLE = "mother father grandmother grandfather teacher sister brother aunt uncle neighbour".split()
SKILLS = (
    "swim|ride a bike|read|climb a tree|bake bread|sing a song|draw a house|fly a kite|tie a knot|"
    "play the flute|skate|count to a hundred|write a letter|build a boat|dance"
).split("|")
WEATHER = "sunny rainy windy snowy cold warm cloudy".split()

START = (
    "[Once upon a time,|One day,|Long ago,|Once,|Once upon a time,] there [was|lived] {a_trait} "
    "{kind} named {n}. {S} [lived|had a small house|had a home] near the {place}. "
    "{S} [liked|loved] [to play with {p} {colour} {thing}|to eat {food}s|to walk in the {place2}|"
    "to watch the clouds|to help {p} {person}|to sing]. "
)
ENDS = (
    "[The end.|From that day on, {n} and {n2} were [best|good] friends.|They all went home and "
    "had {food}s for supper.|{n} [was|felt] very happy.|That night {n} slept well.|{n} never "
    'forgot that day.|And they lived happily ever after.|{n} smiled and said, "This was a good '
    'day."]'
)
PLOTS = {
    "lost": (
        "One [{weather}|{weather}] [morning|day|afternoon], {n} could not find {p} {colour} "
        "{thing}. {S} looked [under the bed|behind the door|in the box|on the table], but it was "
        'not there. {S} [was|felt] very sad. "Where is my {thing}?" {s} asked. {n2} the {animal} '
        'came by and said, "[Do not cry|Do not worry|I can help you]. [Let us look together|I will '
        'look with you]." They looked in the {place} and they looked [near|behind] the {place2}. '
        'At last {n2} [saw|found] the {thing} under [a tree|a leaf|a stone|an old chair]. "[Here|'
        'There] it is!" said {n2}. "Thank you, {n2}!" said {n}. '
    ),
    "share": (
        'One day, {n} had {a_food}. {n2} the {animal} [saw|looked at] the {food} and said, "I am '
        '[so|very] hungry. [May|Can] I have some?" {n} [did not want to share at first|thought for '
        "a moment|looked at the {food}]. Then {s} saw that {n2} was [sad|tired|thin]. {S} [cut|"
        'broke] the {food} in two and gave {n2} [half|the bigger part]. "[Thank you|You are very '
        'kind|How good you are]," said {n2}. They sat [down|together] [by|near] the {place} and '
        "ate. {n} learned that it is good to share. "
    ),
    "hurt": (
        "One {weather} day, {n} went to the {place2}. {S} heard a [small|soft|sad] sound. It was "
        '{n2} the {animal}. {n2} had hurt a [leg|foot|paw]. "[Please help me|Can you help me|It '
        'hurts]," said {n2}. {n} [was scared, but s-he was kind|wanted to help]. {S} took {p} '
        "{colour} [scarf|ribbon] and put it around the leg. Then {s} gave {n2} [some water|some "
        '{food}s|a warm blanket]. After [a few days|a week|three days] {n2} could walk again. "You '
        'saved me," said {n2}. "[Now I will help you too|You are my friend]." '
    ),
    "learn": (
        '{n} wanted to learn to {skill}. "[It is too hard|I can not do it|I am too small]," {s} '
        'said. {P} {person} said, "[Try again|Do not give up|Every day a little]." So {n} tried on '
        "[Monday|Tuesday|Friday], and {s} tried the next day. [The first time|At first] {s} [fell|"
        "made many mistakes|stopped too soon]. But {s} did not give up. After [a week|many days|a "
        'month], {n} could {skill}! {P} {person} was [proud|very glad]. "[I knew you could do it|'
        'Well done]," said {p} {person}. '
    ),
    "quarrel": (
        '{n} and {n2} the {animal} both wanted the {colour} {thing}. "It is mine!" said {n}. "No, '
        'it is mine!" said {n2}. They pulled and pulled, and the {thing} [broke|fell into the '
        'mud|fell into the water]. Now they were both [sad|sorry]. "I am sorry," said {n}. "I am '
        'sorry too," said {n2}. They [mended the {thing}|washed the {thing}|made a new {thing}] '
        "together, and then they [took turns|played with it together]. "
    ),
    "dark": (
        "At night {n} was afraid of the dark. {S} heard [a noise|something] [at the window|under "
        'the bed|behind the door]. "Who is there?" {s} asked. {S} took a lamp and looked. It was '
        'only {n2}, the {colour} {animal}. "I am cold," said {n2}. "[Can I stay here|May I come '
        'in]?" {n} laughed. "Yes, come in," {s} said. {S} gave {n2} a warm blanket. After that, '
        "{n} was not afraid of the dark any more. "
    ),
    "trip": (
        "One {weather} morning, {n} and {p} {person} went to the {place2}. They took {a_food} and "
        'a {colour} {thing}. On the way they [saw|met] {a_animal} named {n2}. "Where are you '
        'going?" asked {n2}. "We are going to the {place2}," said {n}. "[Do you want to come with '
        'us|Come with us]!" At the {place2} they [played|ran|sang and danced] all day. When the '
        "sun went down, they were tired and happy. "
    ),
    "surprise": (
        "It was the birthday of {n2} the {animal}. {n} wanted to [give {n2} a present|make a "
        "surprise]. {S} [made a cake|found a {colour} {thing}|picked flowers in the {place2}]. "
        "{S} hid it [behind a tree|in a box|under a blanket]. When {n2} came, {n} [jumped up|came "
        'out] and said, "Surprise! Happy birthday!" {n2} [laughed|was so happy]. "[This is the '
        'best day|I love it|Thank you, my friend]," said {n2}. They ate {food}s and [sang|danced] '
        "until night. "
    ),
    "garden": (
        "In spring, {n} put a [small|tiny] seed into the ground near the {place}. {S} gave it "
        'water every day. "When will it grow?" {s} asked {p} {person}. "[Wait|You must wait]," '
        "said {p} {person}. First there came a green leaf. Then it grew and grew. In summer there "
        'was a big {colour} flower. {n2} the {animal} came to [see|smell] it. "[How beautiful|It '
        'smells so good]!" said {n2}. {n} was glad that {s} had waited. '
    ),
    "race": (
        '{n2} the {animal} said to {n}, "I am faster than you!" "[Let us see|We will see]," said '
        "{n}. They ran from the {place} to the {place2}. {n2} ran very fast, but then {n2} "
        "[stopped to eat {food}s|fell asleep|looked at a {colour} {thing}]. {n} ran on and on and "
        'did not stop. {n} [won|came first]. "You were slow but you did not stop," said {n2}. '
        '"[That was clever|You won]." '
    ),
    "wish": (
        "{n} found an old {colour} {thing} in the {place2}. When {s} touched it, it began to "
        'shine. A [small|soft] voice said, "You have one wish." {n} thought for a long time. {S} '
        "could wish for gold, or for a big house. But {s} saw {n2} the {animal}, who was [ill|"
        'hungry|alone]. "I wish that {n2} will be [well|happy] again," said {n}. And so it was. '
        '"[You have a good heart|That was a kind wish]," said the voice. '
    ),
}


def slots(rng: random.Random, animal: str | None = None, thing: str | None = None) -> dict:
    """Names and things of one story, consistent through it."""
    girl = rng.random() < 0.5
    hero_is_animal = rng.random() < 0.25
    animal = animal or rng.choice(ANIMALS)
    name, name2 = rng.sample(GIRLS if girl else BOYS, 1)[0], ""
    while not name2 or name2 == name:
        name2 = rng.choice(GIRLS + BOYS)
    place, place2 = rng.sample(PLACES, 2)
    food, trait = rng.choice(FOODS), rng.choice(TRAITS)
    he = "she" if girl else "he"
    kind = rng.choice(ANIMALS) if hero_is_animal else ("girl" if girl else "boy")
    return {
        "n": name,
        "n2": name2,
        "s": he,
        "S": sentence(he),
        "p": "her" if girl else "his",
        "P": "Her" if girl else "His",
        "kind": kind,
        "trait": trait,
        "a_trait": article(trait),
        "animal": animal,
        "a_animal": article(animal),
        "thing": thing or rng.choice(THINGS),
        "food": food,
        "a_food": article(food),
        "colour": rng.choice(COLOURS),
        "place": place,
        "place2": place2,
        "person": rng.choice(PEOPLE),
        "skill": rng.choice(SKILLS),
        "weather": rng.choice(WEATHER),
    }


def story(
    rng: random.Random,
    *,
    animal: str | None = None,
    thing: str | None = None,
    name: str | None = None,
    short: bool = False,
) -> str:
    """One story of one or two plots.

    Args:
        animal: The animal that must appear, if any.
        thing: The thing that must appear, if any.
        name: The name of the hero, if it is given.
        short: One plot without the introduction's second sentence.
    """
    fill = slots(rng, animal, thing)
    if name:
        girl = name in GIRLS
        fill |= {"n": name, "s": "she" if girl else "he", "S": "She" if girl else "He"}
        fill |= {"p": "her" if girl else "his", "P": "Her" if girl else "His"}
        fill["kind"] = "girl" if girl else "boy"
        fill["n2"] = next(n for n in (fill["n2"], "Rosa", "Max") if n != name)
    plots = [plot for key, plot in PLOTS.items() if _shows(plot, animal, thing)]
    chosen = rng.sample(plots, 1 if short or rng.random() < 0.7 else 2)
    start = START.split("{S} [lived")[0] if short else START
    text = start + "\n\n".join(chosen) + ENDS
    return spin(text, rng, fill).replace("s-he", fill["s"]).replace(" \n", "\n")


def _shows(plot: str, animal: str | None, thing: str | None) -> bool:
    """Whether the plot names the animal and the thing for certain, not in an alternative."""
    certain = re.sub(r"\[[^\[\]]*\]", "", plot)
    return (not animal or "{animal}" in certain) and (not thing or "{thing}" in certain)
