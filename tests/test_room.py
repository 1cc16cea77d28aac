"""Room for what is large."""

import gc

import pytest

from chatcore.errors import Overloaded
from chatcore.room import Room


class Owner:
    """Somebody who keeps something."""


@pytest.fixture
def room() -> Room:
    return Room(100, small=10, full="there is no room")


def test_no_more_than_there_is_room_for(room: Room) -> None:
    """Who finds none is told so, and counts nothing; when somebody leaves there is room again."""
    first, second, third = Owner(), Owner(), Owner()
    room.take(first, 60)
    room.take(second, 40)
    with pytest.raises(Overloaded, match="there is no room"):
        room.take(third, 11)
    assert room.taken == 100
    room.leave(first)
    room.take(third, 60)
    assert room.taken == 100


def test_what_is_small_is_not_counted(room: Room) -> None:
    """It finds room where there is none."""
    large, small = Owner(), Owner()
    room.take(large, 100)
    room.take(small, 10)
    assert room.taken == 100


def test_one_always_finds_room(room: Room) -> None:
    """However large it is; nobody else does then."""
    one, other = Owner(), Owner()
    room.take(one, 1000)
    with pytest.raises(Overloaded):
        room.take(other, 11)
    room.take(one, 2000)
    assert room.taken == 2000


def test_an_owner_may_grow(room: Room) -> None:
    """The new size counts in place of the old one; if it does not fit, the old one stays."""
    one, other = Owner(), Owner()
    room.take(one, 20)
    room.take(other, 50)
    room.take(one, 50)
    with pytest.raises(Overloaded):
        room.take(one, 51)
    assert room.taken == 100


def test_who_is_gone_has_left(room: Room) -> None:
    """Nobody has to say so."""
    owner = Owner()
    room.take(owner, 100)
    del owner
    gc.collect()
    assert room.taken == 0


def test_what_is_handed_over_counts_for_the_heir(room: Room) -> None:
    """Also if that is nothing."""
    owner, heir, other = Owner(), Owner(), Owner()
    room.take(owner, 70)
    room.hand_over(owner, heir)
    room.hand_over(other, heir)
    room.leave(owner)
    assert room.taken == 70
    room.leave(heir)
    assert room.taken == 0
