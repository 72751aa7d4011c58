"""Plots at home and in the village: lost things, gifts, meals, gardens, mended cups."""

from __future__ import annotations

from evals.fable.plots import Case, Plot

__all__ = ["HOME_PLOTS"]

START = "[One {w} morning|One {w} day|On a {w} afternoon],"

LOST = Plot(
    title="the lost {t}",
    roles="x,y:person t:thing a,b,c:container w:weather",
    opening=(
        START + " {x} could not find {x.his} {t.full}.",
        "[It was {x.his} favourite {t}.|{x.cap} loved that {t} very much.|]",
        (
            "In the [kitchen|house|hall] there [stood|were] "
            "[{a.a}, {b.a} and {c.a}|{c.a}, {a.a} and {b.a}|{b.a}, {c.a} and {a.a}]."
        ),
    ),
    cases=(
        Case(
            lines=(
                (
                    "[The evening before|The day before|Earlier], "
                    "{y} had put the {t} in the {a}[ to keep it safe|]."
                ),
                (
                    "{x} looked in the {b}[ first|], but [it was empty|the {t} was not there].",
                    "{x} opened the {c}, but [there was only dust in it|it was empty].",
                ),
                "[At last|In the end] {x} asked {y} for help.",
            ),
            ending="{y} [remembered|smiled], and {x} found the {t.full} in the {a}.",
            key="a",
            rivals=("b", "c", "t"),
            swaps=(("a", "b"), ("a", "c"), ("x", "y")),
            ask="Where was the {t}?",
        ),
        Case(
            lines=(
                (
                    "[The evening before|The day before], {y} had borrowed the {t} "
                    "and put it in the {a}."
                ),
                "But [later|at night] {y} had moved it from the {a} to the {b}.",
                "{x} looked in the {a}, but [it was empty|the {t} was gone].",
                "[{x} was sad and asked {y}.|{x} went to {y} and asked {y.her}.]",
            ),
            ending='"[I moved it|Look again]," said {y}, and {x} found the {t} in the {b}.',
            key="b",
            rivals=("a", "c", "t"),
            swaps=(("a", "b"), ("b", "c"), ("x", "y")),
            ask="Where was the {t}?",
        ),
    ),
)

GIFT = Plot(
    title="[a gift for {y}|{y}'s birthday]",
    roles="x,y,z:person t,s:thing a,b:container w:weather p:place",
    opening=(
        "It was {y}'s birthday, and the day was {w}.",
        "{x} and {z} wanted to give {y.her} something [nice|special].",
    ),
    cases=(
        Case(
            lines=(
                (
                    "{x} had [made|bought] {t.the_a} and hid it in the {a}.",
                    "{z} had [found|bought] {s.the_a} at the {p} and hid it in the {b}.",
                ),
                "{y} came home and [looked around|sat down].",
                (
                    '"[Happy birthday|Look what we have]!" they said, and first {x} gave {y.her} '
                    "[{x.his} gift|what {x.she} had hidden]."
                ),
            ),
            ending="{y} opened the {a}, and in it lay a [shiny|lovely] {t}.",
            key="t",
            rivals=("s", "a", "b"),
            swaps=(("t", "s"), ("a", "b"), ("x", "y")),
            ask="What did {x} give to {y}?",
        ),
        Case(
            lines=(
                "{x} bought {t.the_a}, but on the way home {x.she} lost it [near|at] the {p}.",
                "{z} had {s.the_a}, and {z.she} [kindly|gladly] let {x} share in that gift.",
                "So they put it in the {a} and [waited for {y}|called {y}].",
            ),
            ending=(
                "{y} [laughed with joy|was happy], for {x} and {z} had only one gift, the "
                "{s.look} {s}."
            ),
            key="s",
            rivals=("t", "a", "p"),
            swaps=(("t", "s"), ("y", "z"), ("x", "y")),
            ask="What did {y} get?",
        ),
    ),
)

SOUP = Plot(
    title="{x} and the {f}",
    roles="x,y,z:person f,g,h:food w:weather c:craft",
    opening=(
        START + " {x} wanted to [cook a meal|make supper] for {y}.",
        "{y} was coming [at noon|in the evening] and was always hungry.",
    ),
    cases=(
        Case(
            lines=(
                "{x} needed {f}, but in the kitchen {x.she} found nothing but {g}.",
                (
                    "[So {x} ran to the {c}.|{x.cap} went to the {c}.] "
                    '"I have no {f}," said the {c}. "Ask {z}."'
                ),
                (
                    "{z} had {f} and {h}. {x} took [some|a little] of the {f} and "
                    "[said thank you|thanked {z.her}]."
                ),
                "[Soon|Then] {y} came and sat down at the table.",
            ),
            ending="{x} put the meal on the table, and {y} ate all of the {f}.",
            key="f",
            rivals=("g", "h"),
            swaps=(("f", "g"), ("f", "h"), ("x", "y"), ("y", "z")),
            ask="What did {y} eat?",
        ),
        Case(
            lines=(
                "{x} had {f}, {g} and {h} in the kitchen.",
                (
                    "But {y} [did not like|never ate] {f}, and {z} came by and "
                    "[asked for|needed] the {g}."
                ),
                "{x} gave {z} what {z.she} [asked for|needed].",
                "[Then {y} came.|Soon {y} was at the door.]",
            ),
            ending="{x} gave {y} [a large plate|a big bowl] of {h}.",
            key="h",
            rivals=("f", "g"),
            swaps=(("h", "g"), ("h", "f"), ("x", "y"), ("y", "z")),
            ask="What did {y} eat?",
        ),
    ),
)

GARDEN = Plot(
    title="{x}'s garden",
    roles="x,y:person q,r,s:plant n,m,o:animal w:weather",
    opening=(
        (
            "In spring {x} planted [a {q} and a {r}|a {r} and a {q}] in {x.his} garden, "
            "[beside|behind] an old {s}."
        ),
        "[Every day|Each morning] {x.she} gave them water. [The weather was {w}.|]",
    ),
    cases=(
        Case(
            lines=(
                "One night {n.the_a} came into the garden and ate the {q}.",
                (
                    "{x} was [very sad|sad]. {y} saw it and said, "
                    '"[Do not cry.|Do not be sad.] We will build a fence."'
                ),
                "They built a [strong|high] fence, and the {n} [could not come in|stayed away].",
            ),
            ending="In autumn {x} gave {y} a part of the [big|fine] {r}.",
            key="r",
            rivals=("q", "s", "n"),
            swaps=(("q", "r"), ("x", "y"), ("r", "s")),
            ask="What was left in the garden?",
        ),
        Case(
            lines=(
                "Then there was no rain for weeks, and the {r} [dried up|died].",
                "{y} had {m.the_a} that could pull a cart with water.",
                (
                    "[Day by day|Each evening] {y} and the {m} brought water for the {q}[, "
                    "and|. Only] the {o} of [their neighbour|an old farmer] watched."
                ),
            ),
            ending="In autumn {x} thanked {y} and gave [some sugar|a kiss] to the {m}.",
            key="m",
            rivals=("q", "r", "o"),
            swaps=(("x", "y"), ("m", "o")),
            ask="Who pulled the cart with water?",
        ),
    ),
)

BROKEN = Plot(
    title="the broken {t}",
    roles="x,y,z:person t:thing n,m:animal w:weather",
    opening=(
        "{y} had {t.the_a} that {y.his} [grandmother|grandfather|aunt] had given {y.her}.",
        START + " {x} [played|was] in {y}'s house[ with {z}|].",
    ),
    cases=(
        Case(
            lines=(
                "{x} [ran too fast|was not careful] and broke the {t}.",
                '{z} said, "[Say that|Let us say] the {n} did it." But {x} did not want to lie.',
                "{x.cap} went to {y} and told {y.her} [the truth|everything].",
                "Then {x} [worked all day and|] mended the {t} with glue.",
            ),
            ending="{y} was not angry any more and forgave the one who had done it, {x}.",
            key="x",
            rivals=("z", "y"),
            swaps=(("x", "z"), ("x", "y")),
            ask="Who broke the {t}?",
        ),
        Case(
            lines=(
                (
                    "While they [played|ate], {n.the_a} jumped on the table and the {t} fell down. "
                    "[The {m} lay by the fire.|The {m} slept.]"
                ),
                (
                    "{y} came home and saw the broken {t}. "
                    '"[Who did this?|Was it you, {x}?]" {y.she} asked.'
                ),
                '"It was the {n}," said {x}. {z} had seen it too and [nodded|said the same].',
                "{y} [believed them|looked at the small foot prints on the floor].",
            ),
            ending="From then on {y} never left a door open for the {n}.",
            key="n",
            rivals=("x", "z", "m"),
            swaps=(("n", "m"), ("y", "x")),
            ask="Who broke the {t}?",
        ),
    ),
)

NOISE = Plot(
    title="a noise in the night",
    roles="x,y:person n,m,o:animal a,b:container t,s:thing w:weather",
    opening=(
        "{x} and {y} had [{n.the_a}, {m.the_a} and {o.the_a}|{o.the_a}, {n.the_a} and {m.the_a}].",
        "One {w} night {x} [woke up|could not sleep]. There was a noise in the [kitchen|cellar].",
        '"[A ghost|A thief]!" said {x}. {y} [took a lamp|lit a candle], and they went to look.',
    ),
    cases=(
        Case(
            lines=(
                "The {m} and the {o} were [asleep|sleeping] by the fire[, as always|].",
                "Something moved in the {a}. [Slowly|Carefully] {y} lifted the lid.",
            ),
            ending="It was no [ghost|thief] at all, it was only the {n}.",
            key="n",
            rivals=("m", "o", "a"),
            swaps=(("n", "m"), ("n", "o")),
            ask="What made the noise?",
        ),
        Case(
            lines=(
                "The {n}, the {m} and the {o} were [asleep|sleeping] by the fire.",
                (
                    "The {a} was shut, but the {b} stood open, and [the wind|a cold wind] "
                    "blew through the window."
                ),
                (
                    "The wind moved {t.the_a} that lay in the open {b}[ beside {s.the_a}|, but "
                    "not {s.the_a}]."
                ),
            ),
            ending="They shut the window, and {y} took from the {b} the {t}.",
            key="t",
            rivals=("s", "n", "a"),
            swaps=(("t", "s"), ("b", "a")),
            ask="What made the noise?",
        ),
    ),
)

HOME_PLOTS = (LOST, GIFT, SOUP, GARDEN, BROKEN, NOISE)
