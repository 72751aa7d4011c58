"""Plots on the road: trips, trades, races, letters, maps, kites and stray animals."""

from __future__ import annotations

from evals.fable.plots import Case, Plot

__all__ = ["ROAD_PLOTS"]

START = "[One {w} morning|One {w} day|On a {w} afternoon],"

TRADE = Plot(
    title="{x}'s trades",
    roles="x,y,z:person t,s,r:thing p:place w:weather",
    opening=(
        START + " {x} went to the {p} with {t.the_a}.",
        "[{x.cap} wanted to trade it.|{x.cap} did not need it any more.]",
    ),
    cases=(
        Case(
            lines=(
                (
                    "At the {p} {x.she} met {y}, who had {s.the_a}. [They talked, and|There] "
                    "{x} gave {y} the {t} and got the {s} for it."
                ),
                (
                    "[A little later|Then] {x} met {z}, who had {r.the_a} and wanted the {s}. "
                    "So {x} gave {z} the {s} and took the {r}."
                ),
                "[It was late now.|The sun went down.]",
            ),
            ending="[Tired but happy|Happy and singing], {x} went home with the {r.look} {r}.",
            key="r",
            rivals=("t", "s", "p"),
            swaps=(("r", "t"), ("r", "s"), ("x", "y"), ("x", "z")),
            ask="What did {x} have in the end?",
        ),
        Case(
            lines=(
                (
                    "There {y} offered {x.her} {s.the_a} for the {t}.",
                    "There {z} offered {x.her} {r.the_a} for the {t}.",
                ),
                "{x} thought about it. {x.cap} did not like the {r}, so {x.she} said no to {z}.",
                "{x} gave the {t} to {y}[ and shook {y.his} hand|].",
            ),
            ending=(
                "[In the evening|At home] {x} [proudly|gladly] showed everyone the {s.look} {s}."
            ),
            key="s",
            rivals=("t", "r", "p"),
            swaps=(("s", "t"), ("s", "r"), ("x", "y"), ("x", "z")),
            ask="What did {x} have in the end?",
        ),
    ),
)

TRIP = Plot(
    title="a trip to the {p}",
    roles="x,y:person p,q,o:place f,g,h:food n:animal",
    opening=(
        "{x} and {y} wanted to go to the {p}.",
        "{x} packed {f}, and {y} packed {g}.",
    ),
    cases=(
        Case(
            lines=(
                "On the way [dark clouds came|the sky grew dark], and it began to rain.",
                '"We can [hide|wait] at the {q}," said {x}. "No, the {o} is nearer," said {y}.',
                "{x} [agreed|nodded], and they ran[ as fast as they could|].",
                "The {n} of [an old farmer|a kind farmer] was there too, wet and hungry.",
            ),
            ending="They ate the {f} and the {g} and waited for the sun at the {o}.",
            key="o",
            rivals=("p", "q", "n"),
            swaps=(("o", "p"), ("o", "q")),
            ask="Where did they wait?",
        ),
        Case(
            lines=(
                (
                    "The sun shone [all day|all morning]. They walked past the {q}, "
                    "sang songs and came to the {p}."
                ),
                "[A woman|A man] sold {h} there, but they had no money.",
                "[There|Then] {x} was hungry, but a [cheeky|clever] {n} had stolen the {f}.",
                '"[Do not worry|Never mind]," said {y}. "[I still have mine.|We can share mine.]"',
            ),
            ending="With no {f} left, {x} and {y} [sat down and |]shared the {g}.",
            key="g",
            rivals=("f", "h", "n"),
            swaps=(("g", "f"), ("g", "h")),
            ask="What did they eat?",
        ),
    ),
)

RACE = Plot(
    title="the race to the {p}",
    roles="x,y,z:person p,q:place t:thing w:weather n:animal",
    opening=(
        START + " {x}, {y} and {z} ran a race to the {p}.",
        "The prize was {t.the_a}.",
    ),
    cases=(
        Case(
            lines=(
                (
                    "[At first|At the start] {x} was [the fastest|in front], and {y} came after "
                    "{x.her}."
                ),
                "But at the {q} {x} [fell|stopped to drink], and {y} ran past {x.her}.",
                "{z} was [too slow|tired] and [came last|stayed behind].",
            ),
            ending="So the {t.full} was given to {y}.",
            key="y",
            rivals=("x", "z"),
            swaps=(("y", "x"), ("y", "z")),
            ask="Who won the race?",
        ),
        Case(
            lines=(
                (
                    "{y} was fast, but at the {q} {y.she} saw {n.the_a} with a bad leg and stopped "
                    "to help it."
                ),
                "{z} ran on, but [took the wrong way|got lost].",
                "{x} was [not fast|slow], but {x.she} never stopped and came to the {p} first.",
            ),
            ending="The prize went to {x}, and {x.she} let {y} carry the {n}.",
            key="n",
            rivals=("t", "p", "q"),
            swaps=(("x", "z"), ("x", "y")),
            ask="What did {y} stop for?",
        ),
    ),
)

LETTER = Plot(
    title="the letter",
    roles="x,y,z:person p,q:place t,s:thing n,m:animal w:weather",
    opening=(
        "{x} [wrote|had written] a letter to {y}, who lived near the {p}.",
        '{x.cap} gave it to {z} and said, "[Please bring|Take] it to {y}."',
    ),
    cases=(
        Case(
            lines=(
                (
                    "On the way {z} met {n.the_a}. [It followed {z.her}.|It ran after {z.her}.] "
                    "It was [very hungry|alone]."
                ),
                "{z} gave it some bread, and at the {p} {z.she} gave {y} the letter.",
                (
                    "In it {x} asked {y} for {t.the_a}, and {y}, who had {s.the_a} too, [gave "
                    "it gladly|found one]."
                ),
            ),
            ending="So {z} walked back to {x} with the {n} and the {t}.",
            key="t",
            rivals=("n", "p", "s"),
            swaps=(("x", "y"), ("x", "z"), ("t", "s")),
            ask="What did {x} ask for?",
        ),
        Case(
            lines=(
                "At the {q} a [strong|sudden] wind took the letter out of {z}'s hand.",
                (
                    "{n.the_a} [caught|found] it and [carried it|ran with it] to the {p}. "
                    "There {y} saw the letter [and read it|and opened it]."
                ),
                "[Far away|Still at the {q}] {z} looked for it, but met only {m.the_a}.",
            ),
            ending=(
                "[Later|In the evening] {y} told {z} that the letter had been brought by the {n}."
            ),
            key="n",
            rivals=("p", "q", "m"),
            swaps=(("n", "m"), ("y", "z")),
            ask="Who brought the letter?",
        ),
    ),
)

TREASURE = Plot(
    title="the old map",
    roles="x,y:person p,q,o:place t,s:thing a:container w:weather",
    opening=(
        START + " {x} found an old map in {a.a}.",
        (
            "[A cross|A red cross] on the map stood [near|by] the {p}, "
            "and a [ship|star] stood by the {q}."
        ),
    ),
    cases=(
        Case(
            lines=(
                '"The treasure is where the cross is," said {y}. [{x} thought so too.|{x} agreed.]',
                "They took a [shovel|spade] and [walked|went] past the {o}.",
                "They dug a [deep|big] hole and found {s.the_a} [made of gold|full of gold].",
            ),
            ending="{x} and {y} never told anyone what they had found by the {p}.",
            key="p",
            rivals=("q", "o", "a"),
            swaps=(("p", "q"), ("p", "o")),
            ask="Where did they dig?",
            fits_others=True,
        ),
        Case(
            lines=(
                "They dug by the {p} all day, but found only {t.the_a}, which {y} took.",
                '"[Wait|Look]," said {y}, "we held the map the wrong way. It is by the {q}."',
                "There they dug again and found {s.the_a}[ in a box|]. {x} took it.",
            ),
            ending="So after two [holes|days] {y} had the {t}, and {x} had the {s}.",
            key="s",
            rivals=("p", "q", "t"),
            swaps=(("x", "y"), ("s", "t")),
            ask="What did {x} have in the end?",
        ),
    ),
)

STRAY = Plot(
    title="the {n} by the {p}",
    roles="x,y,z:person n:animal p,q:place t,s:tool v,u:pet",
    opening=(
        "[One day|One evening] {x} walked home past the {p}.",
        "There {x.she} saw {n.the_a} that [could not get out|was stuck].",
    ),
    cases=(
        Case(
            lines=(
                (
                    "{x} ran to {y}, who had {t.the_a}.",
                    "{z} came by with {s.the_a}, but it was of no use.",
                ),
                "[With the {t}|Together, with the {t},] {x} and {y} pulled the {n} out.",
                (
                    'The {n} had no home. "I will call you {v}," said {x}. '
                    '"{u} is a [better|nicer] name," said {z}, but {x} [shook|just shook] '
                    "{x.his} head."
                ),
            ),
            ending="That night {x} fell asleep beside {v}.",
            key="v",
            rivals=("u", "y", "z"),
            swaps=(("v", "u"), ("x", "y")),
            ask="What was the name of the {n}?",
        ),
        Case(
            lines=(
                "{x} tried with {t.the_a}, but the {n} was [too heavy|afraid].",
                "[Then|At last] {y} came with {s.the_a}, and with it they pulled the {n} out.",
                (
                    '{z} came running from the {q}. "[Here you are|My dear], {v}!" {z.she} called. '
                    "[It was {z.his} {n}.|{z.cap} had looked for it all day.]"
                ),
            ),
            ending="{z} thanked {x} and {y} and went home with {v}.",
            key="v",
            rivals=("x", "y", "z"),
            swaps=(("z", "x"), ("z", "y")),
            ask="What was the name of the {n}?",
        ),
    ),
)

ROAD_PLOTS = (TRADE, TRIP, RACE, LETTER, TREASURE, STRAY)
