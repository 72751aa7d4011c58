import pytest

from shardline.core import errors
from shardline.core.errors import (
    CacheFull,
    GiveUp,
    ShardlineError,
    TryElsewhere,
    TryLater,
    remote_error,
)


def test_every_error_has_one_remedy() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if not isinstance(kind, type) or kind in (ShardlineError, GiveUp, TryLater, TryElsewhere):
            continue
        remedies = [
            remedy for remedy in (GiveUp, TryLater, TryElsewhere) if issubclass(kind, remedy)
        ]
        assert len(remedies) == 1, name


def test_an_answered_error_keeps_its_kind_and_text() -> None:
    error = remote_error("CacheFull", "100 were asked, 7 are free")
    assert isinstance(error, CacheFull)
    assert str(error) == "100 were asked, 7 are free"


def test_an_answered_text_is_one_line_that_cannot_move_a_cursor() -> None:
    assert str(remote_error("StepFailed", " two\nlines \x1b[2J")) == "two lines ?[2J"


@pytest.mark.parametrize("name", ["SystemExit", "BadInput", "", "NewerError"])
def test_an_unknown_name_is_only_a_reason_to_try_elsewhere(name: str) -> None:
    assert type(remote_error(name, "x")) is TryElsewhere
