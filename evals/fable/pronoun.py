"""Who does the pronoun mean? A miniature of disambiguation QA, nobody-can-tell cases included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.fable.items import Kind, Question, shuffled
from evals.fable.prose import choose, fill
from evals.fable.world import Noun, Person, cast, people

if TYPE_CHECKING:
    import random

__all__ = ["UNCLEAR", "PronounDraft", "pronoun_draft", "pronoun_question"]

UNCLEAR = "nobody can tell"

# What {a} did to {b}; then a reason that is {a}'s, and a reason that is {b}'s.
REASONS: tuple[tuple[str, str, str], ...] = (
    ("{a} thanked {b}", "was glad of the help", "had helped with the {t}"),
    ("{a} said sorry to {b}", "had broken the {t}", "was [hurt|upset]"),
    ("{a} asked {b} for help", "could not lift the {t}", "was [very strong|good at such things]"),
    ("{a} scolded {b}", "was in a bad mood", "had spilled the milk"),
    ("{a} lent {b} a {t}", "had two of them", "had [lost|forgotten] {p.his} own"),
    ("{a} admired {b}", "wanted to run as fast", "had won the race"),
    ("{a} visited {b}", "felt lonely", "was ill and had to stay in bed"),
    ("{a} gave {b} some {f}", "had cooked too much", "had not eaten all day"),
    ("{a} followed {b}", "did not know the way", "knew the way"),
    ("{a} hid from {b}", "was [afraid|shy]", "looked angry"),
    ("{a} sold the {t} to {b}", "needed money", "wanted to buy it"),
    ("{a} paid {b}", "owed a coin", "had mended the {t}"),
    ("{a} waited for {b}", "had come too early", "was late"),
    ("{a} carried {b} home", "had strong arms", "had hurt {p.his} foot"),
    ("{a} taught {b} to swim", "was a good teacher", "wanted to learn it"),
    ("{a} could not hear {b}", "had wool in {p.his} ears", "spoke too quietly"),
    ("{a} lost the game to {b}", "was tired", "had practised a lot"),
    ("{a} beat {b} in the game", "had practised a lot", "was tired"),
    ("{a} forgave {b}", "did not stay angry for long", "had told the truth"),
    ("{a} woke {b}", "had heard a noise", "slept too long"),
)
UNCLEARS: tuple[str, ...] = (
    "{a} met {b} when {p.she} was on the way to the {l}.",
    "{a} and {b} [talked|spoke] about the {t} that {p.she} had [bought|found].",
    "After {a} and {b} came home from the {l}, {p.she} fed the {n}.",
    "{a} saw {b} while {p.she} was at the {l}.",
    "{a} and {b} went to the {l}, and there {p.she} lost a {t}.",
    "{a} sat beside {b}, and {p.she} ate some {f}.",
    "{a} and {b} heard the {n}, and {p.she} [laughed|sang a song].",
)
# Two facts that tell {a} and {b} apart, and what only the owner of the first can do.
OWNERS: tuple[tuple[str, str, str], ...] = (
    ("{a} had {t.the_a}.", "{b} had {s.the_a}.", "{p.she} [lost|broke|sold] {p.his} {t}"),
    ("{a} lived near the {l}.", "{b} lived near the {m}.", "{p.she} walked home to the {l}"),
    ("{a} had {n.the_a}.", "{b} had {o.the_a}.", "{p.she} [fed|washed|looked for] {p.his} {n}"),
    ("{a} liked {f}.", "{b} liked {g}.", "{p.she} [bought|asked for] a lot of {f}"),
)
MEETINGS = ("They met at the {k}. Then", "One day they met, and", "In the evening")
THINGS: tuple[tuple[str, str, str], ...] = (
    ("The {t} did not fit into the {c} because it was too", "big", "small"),
    ("{a} could not put the {t} into the {c} because it was too", "large", "narrow"),
    ("{a} took the {t} out of the {c} because it was", "needed at school", "full"),
    ("The {t} fell on the {c}, and it", "was picked up again by {a}", "got a hole in its side"),
)
OPENINGS = (
    "",
    "[It was|The day was] {w}.",
    "[One morning|One day|In the evening] {x} came by. ",
    "There was a {n} at the {l}.",
)


@dataclass(frozen=True, slots=True)
class PronounDraft:
    """A passage, the pronoun asked for, what it means, and what else it could mean."""

    passage: str
    asked: str
    answer: str
    wrong: tuple[str, ...]


ROLES = {
    **dict.fromkeys(("t", "s"), "thing"),
    **dict.fromkeys(("n", "o"), "animal"),
    **dict.fromkeys(("l", "m", "k"), "place"),
    **dict.fromkeys(("f", "g"), "food"),
    "c": "container",
    "w": "weather",
}


def pronoun_draft(rng: random.Random) -> PronounDraft:
    """Reasons, ownership, things and unclear cases; every answer's share is about a third."""
    first, second, guest = people(rng, 3, girls=rng.choice((True, False)))
    players = {**cast(ROLES, rng), "a": first, "b": second, "p": first, "x": guest}
    opening = fill(choose(rng.choice(OPENINGS), rng), players)
    roll = rng.random()
    if roll < 1 / 3:
        told, answer = rng.choice(UNCLEARS), UNCLEAR
    elif roll < 0.7:  # noqa: PLR2004
        deed, *reasons = rng.choice(REASONS)
        side = rng.randrange(2)
        told = f"{deed} because {{p.she}} {reasons[side]}."
        answer = (first, second)[side].word
    elif roll < 0.9:  # noqa: PLR2004
        told, answer = owners(rng, players, (first, second))
    else:
        return thing_draft(rng, opening, players)
    text = fill(choose(told, rng), players)
    rest = tuple(word for word in (first.word, second.word, UNCLEAR) if word != answer)
    return PronounDraft(f"{opening} {text}".strip(), first.she, answer, rest)


def owners(
    rng: random.Random, players: dict[str, Person | Noun], pair: tuple[Person, Person]
) -> tuple[str, str]:
    """Two facts in any order, and a deed that only one of the two people can have done."""
    one, other, deed = rng.choice(OWNERS)
    owner = rng.randrange(2)
    players["a"], players["b"] = pair[owner], pair[1 - owner]
    facts = " ".join(rng.sample((one, other), 2))
    return f"{facts} {rng.choice(MEETINGS)} {deed}.", pair[owner].word


def thing_draft(
    rng: random.Random, opening: str, players: dict[str, Person | Noun]
) -> PronounDraft:
    """What does `it` mean: the thing or the place it was put into."""
    start, *reasons = rng.choice(THINGS)
    side = rng.randrange(2)
    text = fill(f"{start} {reasons[side]}.", players)
    words = [f"the {players[role]}" for role in ("t", "c")]
    answer = words.pop(side)
    return PronounDraft(f"{opening} {text}".strip(), "it", answer, (words[0], UNCLEAR))


def pronoun_question(draft: PronounDraft, rng: random.Random) -> Question:
    """The passage, then `Question: Who does "she" mean?`."""
    who = "What" if draft.asked == "it" else "Who"
    prompt = f'{draft.passage}\nQuestion: {who} does "{draft.asked}" mean?\nAnswer:'
    return shuffled(Kind.PRONOUN, prompt, draft.answer, draft.wrong, rng)
