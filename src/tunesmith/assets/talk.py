"""English questions and answers: greetings, facts, sums, small reading tasks, copying, advice.

The copying and reading tasks matter most: from them a small model learns to look back at what
the user said, without which no later fine-tuning could generalise.
"""

# ruff: noqa: SIM905  (word lists read better as one string)
from __future__ import annotations

import random

from tunesmith.assets import stories
from tunesmith.assets.spin import article, sentence, spin

_CAPITALS = (
    "France=Paris,England=London,Germany=Berlin,Italy=Rome,Spain=Madrid,Portugal=Lisbon,"
    "China=Beijing,Japan=Tokyo,Russia=Moscow,Egypt=Cairo,Greece=Athens,Austria=Vienna,"
    "Norway=Oslo,Sweden=Stockholm,Finland=Helsinki,Poland=Warsaw,Ireland=Dublin,Cuba=Havana,"
    "Peru=Lima,Kenya=Nairobi,India=New Delhi,Canada=Ottawa,Hungary=Budapest,Denmark=Copenhagen"
)
CAPITALS = {country: city for country, city in (p.split("=") for p in _CAPITALS.split(","))}
OPPOSITES = (
    "big=small,hot=cold,fast=slow,old=new,happy=sad,day=night,up=down,left=right,open=closed,"
    "light=dark,good=bad,high=low,long=short,wet=dry,rich=poor,full=empty,early=late,near=far,"
    "loud=quiet,strong=weak,first=last,black=white,hard=soft,in=out,clean=dirty,young=old"
)
SOUNDS = "cat=meow,dog=woof,cow=moo,sheep=baa,duck=quack,pig=oink,lion=roar,bee=buzz,hen=cluck"
LEGS = (
    "cat=four,dog=four,bird=two,spider=eight,bee=six,horse=four,duck=two,ant=six,hen=two,cow=four"
)
COLOUR_OF = (
    "grass=green,snow=white,the sky=blue,blood=red,coal=black,a lemon=yellow,a carrot=orange,"
    "milk=white,a leaf=green,the sun=yellow,chocolate=brown,the night=black,a plum=purple"
)
PLURALS = (
    "cat=cats,child=children,mouse=mice,foot=feet,box=boxes,baby=babies,man=men,woman=women,"
    "leaf=leaves,sheep=sheep,fish=fish,tooth=teeth,apple=apples,city=cities,bus=buses"
)
PAST = (
    "go=went,see=saw,run=ran,eat=ate,take=took,give=gave,find=found,say=said,come=came,make=made,"
    "sing=sang,write=wrote,play=played,walk=walked,look=looked,think=thought,fly=flew,buy=bought"
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
ROOMS = "kitchen bedroom garden bathroom garage office hall attic cellar".split()
HOUSE = "lamp fan heater radio curtain door window television table chair bed clock".split()
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
FACTS = {
    "How many days are in a week?": "There are seven days in a week.",
    "How many months are in a year?": "There are twelve months in a year.",
    "How many hours are in a day?": "There are twenty-four hours in a day.",
    "How many minutes are in an hour?": "There are sixty minutes in an hour.",
    "What are the four seasons?": "The four seasons are spring, summer, autumn and winter.",
    "Where does the sun rise?": "The sun rises in the east.",
    "Where does the sun set?": "The sun sets in the west.",
    "What do bees make?": "Bees make honey.",
    "What do cows give us?": "Cows give us milk.",
    "Where do fish live?": "Fish live in water.",
    "What is frozen water called?": "Frozen water is called ice.",
    "Who wrote Romeo and Juliet?": "William Shakespeare wrote Romeo and Juliet.",
    "Who wrote War and Peace?": "Leo Tolstoy wrote War and Peace.",
    "What do you need when it rains?": "When it rains, you need an umbrella.",
    "What is a baby dog called?": "A baby dog is called a puppy.",
    "What is a baby cat called?": "A baby cat is called a kitten.",
    "What do we use to write?": "We use a pen or a pencil to write.",
    "What do we see at night in the sky?": "At night we see the moon and the stars.",
    "Is the sun hot or cold?": "The sun is hot.",
    "How many wheels does a bicycle have?": "A bicycle has two wheels.",
}
TALK = {
    "[Hello|Hi|Hello!|Hi!|Hey|Good day]": "Hello! [How can I help you?|How are you today?|Nice to "
    "meet you.]",
    "[How are you?|How do you do?|How are you today?]": "I am [fine|well], thank you. [How are "
    "you?|What can I do for you?]",
    "[Who are you?|What are you?|Tell me about yourself.]": "I am Tiny, a small language model "
    "trained with tunesmith.",
    "[What is your name?|What are you called?|Do you have a name?]": "My name is Tiny.",
    "[Who made you?|Where do you come from?]": "I was trained with tunesmith on old books and "
    "simple stories.",
    "[What can you do?|Can you help me?|What do you know?]": "I can tell short stories, do small "
    "sums, and answer simple questions.",
    "[Thank you|Thanks|Thank you very much]": "You are welcome!",
    "[Goodbye|Bye|See you later]": "Goodbye! [Have a nice day.|See you soon.|Take care.]",
    "[Good morning|Good morning!]": "Good morning! [Did you sleep well?|I hope you have a good "
    "day.]",
    "[Good night|Good night!]": "Good night! [Sleep well.|Sweet dreams.]",
    "[I am sad.|I feel sad today.|I am not happy.]": "I am sorry to hear that. [Do you want to "
    "talk about it?|I hope tomorrow will be better.]",
    "[I am happy!|I am so happy today.|I feel great.]": "That is wonderful! [What happened?|I am "
    "glad for you.]",
    "[I am hungry.|I want to eat.]": "[Eat an apple or some bread.|Then it is time for a meal.]",
    "[I am tired.|I am so tired.]": "[You should rest.|Then go to bed and sleep well.]",
    "[I am cold.|It is cold.]": "[Put on a warm coat.|Sit near the fire.]",
    "[I am bored.|What should I do today?]": "[Read a book.|Go for a walk in the park.|Draw a "
    "picture.|Call a friend.]",
    "[I am afraid.|I am scared of the dark.]": "[Do not be afraid. I am here.|Light a lamp and "
    "take a deep breath.]",
    "[Are you a human?|Are you a person?]": "No, I am a small language model.",
    "[Do you like music?|Do you like stories?]": "[Yes, very much.|Yes, I do. And you?]",
}


def _pairs(text: str) -> list[tuple[str, str]]:
    return [tuple(item.split("=")) for item in text.split(",")]  # type: ignore[misc]


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A greeting, a mood or a question about the model itself, and what to say to it."""
    question = rng.choice(list(TALK))
    return spin(question, rng), spin(TALK[question], rng)


def _fact(rng: random.Random) -> tuple[str, str]:
    kind = rng.randrange(10)
    if kind == 0:
        question = rng.choice(list(FACTS))
        return question, FACTS[question]
    if kind == 1:
        country, city = rng.choice(list(CAPITALS.items()))
        if rng.random() < 0.3:
            return (
                f"{city} is the capital of which country?",
                f"{city} is the capital of {country}.",
            )
        return f"What is the capital of {country}?", f"The capital of {country} is {city}."
    if kind == 2:
        a, b = rng.choice(_pairs(OPPOSITES))
        ask = rng.choice(("What is the opposite of {}?", "Tell me the opposite of {}."))
        return ask.format(a), f"The opposite of {a} is {b}."
    if kind == 3:
        animal, sound = rng.choice(_pairs(SOUNDS))
        return f"What does {article(animal)} say?", f"{sentence(article(animal))} says {sound}."
    if kind == 4:
        animal, legs = rng.choice(_pairs(LEGS))
        ask = f"How many legs does {article(animal)} have?"
        return ask, f"{sentence(article(animal))} has {legs} legs."
    if kind == 5:
        thing, colour = rng.choice(_pairs(COLOUR_OF))
        return f"What colour is {thing}?", f"{sentence(thing)} is {colour}."
    if kind == 6:
        one, many = rng.choice(_pairs(PLURALS))
        return f"What is the plural of {one}?", f"The plural of {one} is {many}."
    if kind == 7:
        now, past = rng.choice(_pairs(PAST))
        return f"What is the past tense of {now}?", f"The past tense of {now} is {past}."
    names = DAYS if kind == 8 else MONTHS
    at = rng.randrange(len(names))
    what = "day" if kind == 8 else "month"
    if rng.random() < 0.6:
        return (
            f"What {what} comes after {names[at - 1]}?",
            f"{names[at]} comes after {names[at - 1]}.",
        )
    return f"What {what} comes before {names[at]}?", f"{names[at - 1]} comes before {names[at]}."


def _sum(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    kind = rng.randrange(6)
    if kind == 0:
        return f"{a} + {b} =", f"{a + b}"
    if kind == 1:
        return spin(f"[What is|How much is] {a} plus {b}?", rng), f"{a} plus {b} is {a + b}."
    if kind == 2:
        return spin(f"[What is|How much is] {a + b} minus {b}?", rng), f"{a + b} minus {b} is {a}."
    if kind == 3:
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        return f"What is {a} times {b}?", f"{a} times {b} is {a * b}."
    name = rng.choice(stories.GIRLS + stories.BOYS)
    he = "she" if name in stories.GIRLS else "he"
    thing, a, b = rng.choice(stories.FOODS) + "s", rng.randint(2, 9), rng.randint(2, 9)
    if kind == 4:
        text = f"{name} has {a} {thing} and gets {b} more. How many {thing} does {he} have now?"
        return text, f"{name} has {a + b} {thing} now."
    text = f"{name} has {a + b} {thing} and gives away {b}. How many {thing} does {he} have now?"
    return text, f"{name} has {a} {thing} now."


def _words(rng: random.Random, least: int = 2, most: int = 5) -> list[str]:
    pools = (
        stories.THINGS + stories.ANIMALS + stories.FOODS + stories.COLOURS + HOUSE + ROOMS,
        stories.GIRLS + stories.BOYS + list(CAPITALS) + DAYS,
        [str(number) for number in range(100)],
        stories.PLACES + stories.TRAITS + stories.PEOPLE + NUMBERS + ROOMS + HOUSE,
    )
    return rng.sample(rng.choice(pools), rng.randint(least, most))


def _copy(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    plain, comma = " ".join(words), ", ".join(words)
    word, kind = words[0], rng.randrange(13)
    if kind < 6:
        return spin(f"[Repeat|Say|Write|Repeat after me]: {plain}", rng), plain
    if kind == 6:
        return f"Spell the word {word}.", "-".join(word)
    if kind == 7:
        return f"Write {word} in capital letters.", word.upper()
    if kind == 8:
        return f"What is the first word of: {plain}", word
    if kind == 9:
        return f"What is the last word of: {plain}", words[-1]
    if kind == 10:
        return f"How many words are in this list: {comma}?", NUMBERS[len(words)]
    if kind == 11:
        return f"Put a comma between the words: {plain}", comma
    return f"Say it backwards: {plain}", " ".join(reversed(words))


def _reading(rng: random.Random) -> tuple[str, str]:
    fill = stories.slots(rng)
    n, n2, colour, thing = (fill[key] for key in ("n", "n2", "colour", "thing"))
    food, animal, place, place2 = (fill[key] for key in ("food", "animal", "place", "place2"))
    facts = [
        (f"{n} has {article(colour)} {thing}.", f"What colour is the {thing}?",
         f"The {thing} is {colour}."),
        (f"{n} is in the {place}.", f"Where is {n}?", f"{n} is in the {place}."),
        (f"{n2} likes {food}s.", f"What does {n2} like?", f"{n2} likes {food}s."),
        (f"{n2} went to the {place2}.", f"Where did {n2} go?", f"{n2} went to the {place2}."),
        (f"The {animal} sleeps under the {thing}.", "Who sleeps?", f"The {animal} sleeps."),
        (f"{n} gave the {thing} to {n2}.", f"Who has the {thing} now?",
         f"{n2} has the {thing} now."),
    ]  # fmt: skip
    if rng.random() < 0.4:
        return _house(rng)
    chosen = rng.sample(facts, rng.randint(1, 3))
    _, question, answer = rng.choice(chosen)
    if rng.random() < 0.3:
        answer = f"{answer.split()[-1] if 'Who' not in question else answer.split()[0]}".strip(".")
        question = f"{question} Answer in one word."
        if answer == "The":
            answer = animal
        elif "Where" in question:
            answer = answer.strip(".")
    return " ".join(fact for fact, _, _ in chosen) + f" {question}", answer


def _house(rng: random.Random) -> tuple[str, str]:
    count = rng.randint(2, 3)
    rooms, things = rng.sample(ROOMS, count), rng.sample(HOUSE, count)
    told = " ".join(
        f"The {thing} is in the {room}." for thing, room in zip(things, rooms, strict=True)
    )
    at = rng.randrange(count)
    if rng.random() < 0.5:
        return f"{told} Where is the {things[at]}?", f"The {things[at]} is in the {rooms[at]}."
    return f"{told} What is in the {rooms[at]}?", f"The {things[at]} is in the {rooms[at]}."


def _story(rng: random.Random) -> tuple[str, str]:
    kind = rng.randrange(4)
    if kind == 0:
        animal = rng.choice(stories.ANIMALS)
        ask = spin("[Tell me|Write] a story about {a}.", rng, {"a": article(animal)})
        return ask, stories.story(rng, animal=animal, short=True)
    if kind == 1:
        thing = rng.choice(stories.THINGS)
        ask = spin("[Tell me|Write] a story about {a}.", rng, {"a": article(thing)})
        return ask, stories.story(rng, thing=thing, short=True)
    if kind == 2:
        name = rng.choice(stories.GIRLS + stories.BOYS)
        ask = f"Tell me a story about {article('child')} named {name}."
        return ask, stories.story(rng, name=name, short=True)
    return rng.choice(("Tell me a story.", "Write a short story.")), stories.story(rng, short=True)


def _list(rng: random.Random) -> tuple[str, str]:
    kinds = {
        "animals": stories.ANIMALS,
        "colours": stories.COLOURS,
        "days of the week": DAYS,
        "months": MONTHS,
        "things in a house": stories.THINGS,
    }
    what, count = rng.choice(list(kinds)), rng.randint(2, 4)
    if rng.random() < 0.3:
        return f"Count to {NUMBERS[count * 2]}.", ", ".join(NUMBERS[1 : count * 2 + 1]) + "."
    names = rng.sample(kinds[what], count)
    return f"Name {NUMBERS[count]} {what}.", f"{', '.join(names[:-1])} and {names[-1]}."


MAKERS = {small_talk: 8, _fact: 15, _sum: 14, _copy: 30, _reading: 22, _story: 6, _list: 5}


def exchange(rng: random.Random) -> tuple[str, str]:
    """A question and its answer."""
    return rng.choices(list(MAKERS), list(MAKERS.values()))[0](rng)
