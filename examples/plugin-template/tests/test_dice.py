"""What the dice do."""

import pytest
from chatcore_plugin_template.dice import throw


def test_throw_gives_one_face_for_each_die():
    """Faces count from 1."""
    assert throw(3, 6, draw=lambda sides: sides - 1) == [6, 6, 6]
    assert throw(2, 6, draw=lambda sides: 0) == [1, 1]


def test_throw_is_random():
    """All faces come up, and no others."""
    assert set(throw(1000, 4)) == {1, 2, 3, 4}


@pytest.mark.parametrize(("count", "sides"), [(0, 6), (-1, 6), (1, 1), (1, 0)])
def test_throw_refuses_dice_that_do_not_exist(count, sides):
    """No dice, or dice without sides, are an error."""
    with pytest.raises(ValueError, match="at least"):
        throw(count, sides)
