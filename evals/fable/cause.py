"""Did A cause B? A miniature of causal judgement: links, repairs, intentions, bystanders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.fable.items import Kind, Question
from evals.fable.world import people

if TYPE_CHECKING:
    import random

__all__ = ["CauseDraft", "cause_draft", "cause_question"]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A deed that leads to an effect, how it can be undone, and what else leads there.

    `deed` and `undo` are past tense without a subject, `other` and `effect` whole clauses;
    `did` is the effect as a question after `Did`, `wish` the deed after `wanted to`.
    """

    deed: str
    wish: str
    undo: str
    other: str
    effect: str
    did: str


def mechanism(row: str) -> Mechanism:
    """One row of the table: six fields between bars."""
    return Mechanism(*(field.strip() for field in row.split("|")))


MECHANISMS = tuple(
    mechanism(row)
    for row in (
        (
            "left the gate open|leave the gate open|closed the gate|the wind broke the fence"
            "|the goat got out|the goat get out"
        ),
        (
            "lit a fire in the barn|light a fire in the barn|put out the fire"
            "|lightning hit the barn|the barn burned down|the barn burn down"
        ),
        (
            "left the window open|leave the window open|shut the window|the roof began to leak"
            "|the bed got wet|the bed get wet"
        ),
        (
            "put salt in the tea|put salt in the tea|poured out the tea and made new tea"
            "|a crow dropped dirt into the cup|the tea tasted bad|the tea taste bad"
        ),
        (
            "put a stone on the road|put a stone on the road|took the stone away"
            "|a branch fell on the road|the cart tipped over|the cart tip over"
        ),
        (
            "made a hole in the boat|make a hole in the boat|mended the hole"
            "|a big wave came over the boat|the boat sank|the boat sink"
        ),
        (
            "forgot the cake in the oven|forget the cake in the oven|took the cake out in time"
            "|the dog pushed the cake into the fire|the cake was burnt|the cake get burnt"
        ),
        (
            "put a ball on the stairs|put a ball on the stairs|picked up the ball"
            "|a step of the stairs broke|the teacher fell down|the teacher fall down"
        ),
        (
            "rang the big bell|ring the big bell|tied up the bell|thunder rolled over the village"
            "|the baby woke up|the baby wake up"
        ),
        (
            "cut the rope of the swing|cut the rope of the swing|put on a new rope"
            "|the branch above the swing broke|the swing fell down|the swing fall down"
        ),
        (
            "put honey on the table|put honey on the table|put the honey away"
            "|an old apple lay on the floor|the ants came in|the ants come in"
        ),
        (
            "threw a stone at the window|throw a stone at the window|caught the stone"
            "|hail came down on the house|the window broke|the window break"
        ),
        (
            "opened the cage|open the cage|shut the cage|the cage fell and broke"
            "|the bird flew away|the bird fly away"
        ),
        (
            "watered the rose each day|water the rose each day|pulled the rose out"
            "|it rained each day for a week|the flower bed was green again|the flower bed get green"
        ),
        (
            "oiled the wheel|oil the wheel|wiped off the oil|the smith put on a new wheel"
            "|the cart ran smoothly|the cart run smoothly"
        ),
        (
            "blew out the candle|blow out the candle|lit the candle again"
            "|the wind put out all lights|the room went dark|the room go dark"
        ),
        (
            "hid the key|hide the key|put the key back|the lock was full of ice"
            "|the door stayed shut|the door stay shut"
        ),
        (
            "fed the pig too much|feed the pig too much|took the food away"
            "|the pig ate bad roots in the wood|the pig got sick|the pig get sick"
        ),
    )
)
IDLE = (
    "painted a bench|paint a bench",
    "sang a song|sing a song",
    "swept the yard|sweep the yard",
    "wrote a letter|write a letter",
    "read a book|read a book",
    "baked some bread|bake some bread",
    "looked at the clouds|look at the clouds",
    "washed a shirt|wash a shirt",
    "drew a picture|draw a picture",
    "counted the hens|count the hens",
)
STARTS = ("One day", "One morning", "In the afternoon", "After lunch", "On Monday", "In spring")
THEN = ("Later", "Then", "Soon after that", "In the evening", "An hour later")


@dataclass(frozen=True, slots=True)
class CauseDraft:
    """A passage, the effect asked about, and who or what did and did not cause it."""

    passage: str
    did: str
    causes: tuple[str, ...]
    others: tuple[str, ...]


def cause_draft(rng: random.Random) -> CauseDraft:
    """One of seven shapes of events; each shape holds at least one cause and two that are none."""
    x, y, z = (person.word for person in people(rng, 3))
    means = rng.choice(MECHANISMS)
    (idle, idle_wish), (hobby, _) = (row.split("|") for row in rng.sample(IDLE, 2))
    start, then, at_last = rng.choice(STARTS), *rng.sample(THEN, 2)
    deed, other, effect = f"{x} {means.deed}", means.other, means.effect
    idling, resting = f"{y} {idle}", f"{z} {hobby}"
    end = f"{at_last} {effect}."
    shapes = (
        (f"{start} {deed}. {{}} {end}", (deed,), (idling, f"{y} {means.deed}")),
        (
            f"{start} {deed}. {then} {y} {means.undo}. {{}} But {other}, and {effect}.",
            (other,),
            (deed, resting),
        ),
        (
            f"{start} {x} wanted to {means.wish}, but did not do it. {then} {other}. {{}} {end}",
            (other,),
            (deed, idling),
        ),
        (
            f"{start} {x} wanted to {idle_wish}, but {y} {means.deed}. {{}} {end}",
            (f"{y} {means.deed}",),
            (deed, f"{x} {idle}"),
        ),
        (
            f"{start} {deed}. {then} {y} wanted to help, but was too late. {{}} {end}",
            (deed,),
            (f"{z} {means.deed}", resting),
        ),
        (
            f"{start} {other}, and {effect}. {then} {deed}. {{}}",
            (other,),
            (deed, resting),
        ),
        (
            f"{start} {deed}, and {effect}. {then} {other}. {{}}",
            (deed,),
            (other, other, idling),
        ),
    )
    text, causes, others = rng.choice(shapes)
    bystander = f"{resting}." if resting in others else f"{idling}."
    passage = text.format(bystander if resting in others or idling in others else "")
    return CauseDraft(" ".join(passage.split()), means.did, causes, others)


def cause_question(draft: CauseDraft, rng: random.Random) -> Question:
    """The passage, then `Question: Did B happen because A?`; yes and no are equally likely."""
    holds = rng.random() < 1 / 2
    reason = rng.choice(draft.causes if holds else draft.others)
    prompt = f"{draft.passage}\nQuestion: Did {draft.did} because {reason}?\nAnswer:"
    return Question(Kind.CAUSE, prompt, ("Yes", "No"), 0 if holds else 1)
