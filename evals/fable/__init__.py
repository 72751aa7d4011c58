"""Fable: a seeded small world of stories and five kinds of questions, and the model it trains.

Pure functions of a seed; see README.md for the split that keeps held-out passages out of training.
"""

from __future__ import annotations

from evals.fable.documents import make_question, make_questions, make_story
from evals.fable.items import Kind, Question, Split, split_of
from evals.fable.plots import Story

__all__ = [
    "Kind",
    "Question",
    "Split",
    "Story",
    "make_question",
    "make_questions",
    "make_story",
    "split_of",
]
