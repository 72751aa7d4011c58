"""Measure what fewer bits cost a model: tasks, single answers, intervals, Table 1."""

from shardline.evaluation.intervals import bootstrap, wilson
from shardline.evaluation.measures import Change, Losses, Measured, Shares, alike
from shardline.evaluation.published import PUBLISHED, Published, published_task
from shardline.evaluation.questions import (
    MINIATURES,
    Asked,
    Questions,
    Text,
    choice,
    shipped_questions,
    shipped_text,
)
from shardline.evaluation.rows import METHODS, Row, Way, as_json, compare, markdown, table
from shardline.evaluation.weighing import Forward, Tokens, Weigher, Weight

__all__ = [
    "METHODS",
    "MINIATURES",
    "PUBLISHED",
    "Asked",
    "Change",
    "Forward",
    "Losses",
    "Measured",
    "Published",
    "Questions",
    "Row",
    "Shares",
    "Text",
    "Tokens",
    "Way",
    "Weigher",
    "Weight",
    "alike",
    "as_json",
    "bootstrap",
    "choice",
    "compare",
    "markdown",
    "published_task",
    "shipped_questions",
    "shipped_text",
    "table",
    "wilson",
]
