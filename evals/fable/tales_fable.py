"""Plots with a lesson: proud and kind animals, promises kept and broken, things lent and shared."""

from __future__ import annotations

from evals.fable.plots import Case, Plot

__all__ = ["FABLE_PLOTS"]

PROUD = Plot(
    title="the proud {n} and the {m}",
    roles="n,m,o:animal f,g:food p,q:place",
    opening=(
        "{n.the_a} and {m.the_a} lived near the {p}.",
        'The {n} was proud. "I am [stronger|faster|wiser] than you," it [often|always] said.',
    ),
    cases=(
        Case(
            lines=(
                "[One day|One winter day] the {n} fell into [a hole|a deep hole] by the {q}.",
                (
                    "The {o} walked by and [laughed|did nothing]. But the {m} heard the {n} call "
                    "and [came at once|ran to the {q}]."
                ),
                "It pushed a [branch|plank] into the hole, and the {n} climbed out.",
            ),
            ending="From that day on the {n} was no longer proud and shared its {f} with the {m}.",
            key="m",
            rivals=("o", "n"),
            swaps=(("m", "o"), ("n", "m"), ("n", "o")),
            ask="Who helped the {n}?",
        ),
        Case(
            lines=(
                "[One day|One morning] both saw {f} on a table and {g} on a high shelf.",
                "The {n} jumped for the {g}, [fell|fell down] and got nothing.",
                "The {m} [waited|sat still] until the people left[ the table|].",
                "The {o} watched them from the {q}[ and smiled|].",
            ),
            ending="So the proud one stayed hungry, and the {m} ate the {f}.",
            key="f",
            rivals=("g", "o", "q"),
            swaps=(("f", "g"), ("m", "n"), ("m", "o")),
            ask="What did the {m} eat?",
        ),
    ),
)

PROMISE = Plot(
    title="[the promise|{x}'s promise]",
    roles="x,y,z:person t:thing p,q,o:place n:animal w:weather",
    opening=(
        '"I will meet you at the {p} [at noon|in the morning]," {x} promised {y}.',
        "The next day was {w}.",
    ),
    cases=(
        Case(
            lines=(
                'On the way {z} called {x}. "Come and play with us at the {q}! We have {t.the_a}!"',
                (
                    "{x} [stopped|thought about it]. But [a promise is a promise|{y} was waiting], "
                    "and {x.she} [went on|walked on]."
                ),
                "{y} was [glad|happy] and showed {x} {n.the_a} that had come from the {o}.",
            ),
            ending="{x} was glad that {x.she} had gone to the {p}.",
            key="p",
            rivals=("q", "o", "n"),
            swaps=(("p", "q"), ("x", "z"), ("p", "o")),
            ask="Where did {x} go?",
        ),
        Case(
            lines=(
                (
                    "On the way {x} saw {z} at the {q} with {n.the_a}. {x} forgot {y} and "
                    "[stayed there|played there] all day."
                ),
                (
                    "{y} waited for hours at the {p}[ in the wind|]. "
                    "Then {y.she} [went|walked] home [alone|sadly]."
                ),
                "In the evening {x} remembered, [and {x.his} face grew red|and was ashamed].",
            ),
            ending="{x} went to {y} and said sorry for the hours with {z} and the {n}.",
            key="n",
            rivals=("p", "q"),
            swaps=(("x", "y"), ("y", "z")),
            ask="What did {z} have at the {q}?",
        ),
    ),
)

LENT = Plot(
    title="the {t} that was lent",
    roles="x,y,z:person t,s:thing a,b:container p:place w:weather",
    opening=(
        "{x} had {t.the_a} and {y} had {s.the_a}.",
        (
            "[One day|On a {w} day] they [met at|walked to] the {p} and [traded for a "
            "day|swapped them]."
        ),
    ),
    cases=(
        Case(
            lines=(
                "{x} put what {x.she} got in the {a}, and {y} put what {y.she} got in the {b}.",
                "At night {z} [came to see|visited] {x} and opened the {a}.",
            ),
            ending='"How lovely," said {z}, and took out the {s}.',
            key="s",
            rivals=("t", "a", "b"),
            swaps=(("s", "t"), ("z", "y")),
            ask="What was in the {a}?",
        ),
        Case(
            lines=(
                (
                    "[In the evening|After supper] they swapped back. "
                    "{x} put [what was {x.his} own|{x.his} own thing] in the {a}. "
                    "{y} put {y.his} own thing in the {b}."
                ),
                "Then {z} came to {x} and [asked|wanted] to see what was in the {a}.",
            ),
            ending="{x} opened it and showed {z} the {t}.",
            key="t",
            rivals=("s", "a", "b"),
            swaps=(("t", "s"), ("x", "z")),
            ask="What was in the {a}?",
        ),
    ),
)

FRIENDS = Plot(
    title="the {n}, the {m} and the winter",
    roles="n,m,o:animal f,g,h:food a,b:container p:place",
    opening=(
        "[All summer|In summer] the {n} [gathered|collected] {f} and filled {a.a}.",
        "The {m} only sang, played by the {p} and ate {h}.",
    ),
    cases=(
        Case(
            lines=(
                (
                    "Then winter came, and the {m} was hungry. It went to the {o}, "
                    'but the {o} said, "[Go away|I have nothing]."'
                ),
                "It went to the {n} and [asked|begged] for food.",
                '"[Come in|You poor thing]," said the {n}, "but next summer you will help me."',
            ),
            ending="The next summer the {m} did not sing and filled {b.a} for the {n}.",
            key="n",
            rivals=("o", "m"),
            swaps=(("n", "o"), ("m", "n"), ("m", "o")),
            ask="Who gave food to the {m}?",
            fits_others=True,
        ),
        Case(
            lines=(
                (
                    "The {o} kept {g} in {b.a}. Then winter came, and a storm [carried|blew] away "
                    "the {b} of the {o}."
                ),
                "The {m} and the {o} [stood|sat] in the snow and were [cold|hungry].",
                'The {n} opened its door. "[There is enough for all|Come in and eat]," it said.',
            ),
            ending="So the three sat by the fire, and all of them ate {f}.",
            key="f",
            rivals=("g", "h", "b"),
            swaps=(("f", "g"), ("f", "h")),
            ask="What did they eat?",
        ),
    ),
)

TEACHER = Plot(
    title="what the {c} taught {x}",
    roles="x,y,z:person c,d:craft t,s:thing p,q:place w:weather",
    opening=(
        "{x} wanted to [learn something|find work]. [It was a {w} day.|]",
        "{x.cap} went to the {c} by the {p} and to the {d} by the {q}.",
    ),
    cases=(
        Case(
            lines=(
                (
                    'The {c} said, "Bring me {t.the_a}[, and I will teach you|]."',
                    'The {d} said, "Bring me {s.the_a}[, and I will teach you|]."',
                ),
                (
                    "{y} had {s.a}, but did not want to give it away. "
                    "{z} had {t.a} and gave it to {x}."
                ),
            ),
            ending="So {x} took the {t} and [learned from|went to work for] the {c}.",
            key="c",
            rivals=("d", "y", "z"),
            swaps=(("c", "d"), ("x", "y"), ("t", "s")),
            ask="Who taught {x}?",
        ),
        Case(
            lines=(
                (
                    "The {c} had no time. The {d} [was kind and|] showed {x} "
                    "how to make {t.a} and {s.a}."
                ),
                "{x} made {t.a} for {y} and {s.a} for {z}.",
                "{y} [broke|lost] the gift on the same day, but {z} kept it [all year|for ever].",
            ),
            ending="Many years later {z} still had {x}'s {s}.",
            key="s",
            rivals=("t", "c", "d"),
            swaps=(("s", "t"), ("z", "y"), ("x", "y")),
            ask="What did {z} still have?",
        ),
    ),
)

FABLE_PLOTS = (PROUD, PROMISE, LENT, FRIENDS, TEACHER)
