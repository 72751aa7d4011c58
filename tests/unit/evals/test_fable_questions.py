"""The generator: deterministic, one right answer each, and held-out text kept out of training."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest

from evals.fable import Kind, Question, Split, make_question, make_questions, make_story, split_of
from evals.fable.documents import PLOTS, documents
from evals.fable.lessons import LESSONS
from evals.fable.order import Clue, fitting_orders, order_draft, order_question
from evals.fable.plots import Plot, exchanged, foreign_ending, tell_plot
from evals.fable.prose import fill
from evals.fable.world import NOUNS, Noun, cast

KINDS = list(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_a_function_of_its_seed_and_split(kind: Kind) -> None:
    assert make_question(kind, 7) == make_question(kind, 7)
    assert make_question(kind, 7) != make_question(kind, 8)
    assert make_question(kind, 7, Split.TRAIN) != make_question(kind, 7, Split.HELD_OUT)
    assert make_story(3) == make_story(3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_option_stands_in_every_place_equally_often(kind: Kind) -> None:
    questions = make_questions(kind, 400)
    for size, group in itertools.groupby(sorted(questions, key=size_of), key=size_of):
        places = Counter(question.answer_index for question in group)
        expected = places.total() / size
        assert set(places) == set(range(size))
        assert all(abs(count - expected) < 5 * expected**0.5 for count in places.values())


def size_of(question: Question) -> int:
    return len(question.options)


def test_a_question_refuses_options_that_are_not_distinct() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Question(Kind.CAUSE, "Did it?", ("Yes", "Yes"), 0)
    with pytest.raises(ValueError, match="no option 2"):
        Question(Kind.CAUSE, "Did it?", ("Yes", "No"), 2)


@pytest.mark.parametrize("size", [3, 4, 5, 6, 7])
def test_the_clues_leave_exactly_one_order(size: int) -> None:
    for seed in range(20 if size < 7 else 5):
        draft = order_draft(random.Random(seed), size)
        orders = [
            order for order in itertools.permutations(range(size)) if follows(order, draft.clues)
        ]
        assert orders == [draft.order]
        assert fitting_orders(draft.clues, size) == [draft.order]


def follows(order: tuple[int, ...], clues: tuple[Clue, ...]) -> bool:
    place = {item: index for index, item in enumerate(order)}
    for clue in clues:
        first, second = place[clue.first], clue.second
        match clue.relation:
            case "at":
                holds = first == second
            case "before":
                holds = first < place[second]
            case _:
                holds = first + 1 == place[second]
        if not holds:
            return False
    return True


def test_an_order_question_has_every_object_as_an_option() -> None:
    for question in make_questions(Kind.ORDER, 100):
        assert 3 <= len(question.options) <= 7
        assert all(option.lower() in question.prompt.lower() for option in question.options)


def test_an_order_question_asks_for_told_and_untold_places_and_the_order_answers_it() -> None:
    told = 0
    for seed in range(60):
        rng = random.Random(seed)
        draft = order_draft(rng, 4)
        for place, item in enumerate(draft.order):
            question = order_question(draft, rng, place)
            assert question.answer == draft.names[item]
            assert question.prompt.startswith(draft.passage)
            told += any(clue == Clue("at", item, place) for clue in draft.clues)
    assert 0.1 < told / 240 < 0.9


@pytest.mark.parametrize("kind", [Kind.LAST_WORD, Kind.PRONOUN])
def test_every_option_is_named_in_the_prompt(kind: Kind) -> None:
    for question in make_questions(kind, 200):
        text = question.prompt.lower()
        named = [option for option in question.options if option != "nobody can tell"]
        assert all(option.lower() in text for option in named), question


def test_yes_and_no_unclear_and_clear_are_balanced() -> None:
    yes = sum(question.answer == "Yes" for question in make_questions(Kind.CAUSE, 600))
    unclear = sum(q.answer == "nobody can tell" for q in make_questions(Kind.PRONOUN, 600))
    assert 240 < yes < 360
    assert 140 < unclear < 260


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.title)
def test_a_plots_endings_differ_and_its_last_words_are_told_before(plot: Plot) -> None:
    for seed in range(60):
        story = tell_plot(plot, PLOTS, random.Random(seed))
        assert len(story.wrong_endings) == 3
        assert len({story.ending, *story.wrong_endings}) == 4
        assert story.last_word in story.passage
        assert story.last_word not in story.rivals
        assert all(rival in story.passage for rival in story.rivals)
        for text in (story.text, *story.wrong_endings):
            assert not {"{", "[", "|"} & set(text)
            assert "  " not in text


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.title)
def test_every_exchange_of_roles_is_of_one_kind_and_changes_the_ending(plot: Plot) -> None:
    kinds = plot.cast_list()
    for case in plot.cases:
        assert len(case.swaps) >= 2
        for seed, (first, second) in enumerate(case.swaps):
            players = cast(kinds, random.Random(seed))
            assert kinds[first] == kinds[second]
            assert f"{{{first}" in case.ending or f"{{{second}" in case.ending
            swapped = exchanged(players, (first, second))
            assert fill(case.ending, swapped) != fill(case.ending, players)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.title)
def test_another_plots_ending_always_names_something_that_the_story_never_told(plot: Plot) -> None:
    nouns = {word.lower() for words in NOUNS.values() for word in words}
    refused = 0
    for seed in range(60):
        rng = random.Random(seed)
        players = cast(plot.cast_list(), rng)
        body = " ".join(player.word for player in players.values() if isinstance(player, Noun))
        ending = foreign_ending(PLOTS, plot, players, body, rng)
        refused += ending is None
        told = set(body.lower().split())
        assert ending is None or nouns & (words_of(ending) - told), (body, ending)
    assert refused < 20


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_an_ending_that_other_ways_of_a_plot_allow_is_never_their_wrong_ending() -> None:
    titles = {plot.title for plot in PLOTS if any(case.fits_others for case in plot.cases)}
    assert titles == {"the old map", "the {n}, the {m} and the winter"}
    old_map = next(plot for plot in PLOTS if plot.title == "the old map")
    for seed in range(60):
        story = tell_plot(old_map, PLOTS, random.Random(seed))
        if "we held the map the wrong way" in story.passage:
            assert not any("never told anyone" in ending for ending in story.wrong_endings)


def test_no_held_out_passage_is_read_in_training() -> None:
    held_out = [make_story(seed).passage for seed in range(100)]
    held_out += [q.prompt for kind in KINDS[2:] for q in make_questions(kind, 100)]
    texts = ("".join(text for text, _ in pieces) for pieces, _ in documents(0))
    read = "\n".join(itertools.islice(texts, 3000))
    for number, lesson in enumerate(LESSONS):
        taught = itertools.islice(documents(number, lesson.mix), 200)
        read += "\n".join("".join(text for text, _ in pieces) for pieces, _ in taught)
    assert not any(passage in read for passage in held_out)
    passages = [make_story(seed, Split.TRAIN).passage for seed in range(50)]
    assert {split_of(passage) for passage in passages} == {Split.TRAIN}
    assert {split_of(make_story(seed).passage) for seed in range(50)} == {Split.HELD_OUT}


def test_training_documents_are_a_function_of_their_seed() -> None:
    first, again, other = (list(itertools.islice(documents(seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert all(any(is_answer for _, is_answer in pieces) for pieces, _ in first)
