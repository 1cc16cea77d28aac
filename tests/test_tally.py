"""Counts (chatcore/tally.py)."""

from chatcore.tally import Histogram, Tally


def test_sums_are_kept_by_labels():
    """Each combination has its own."""
    tally = Tally()
    tally.add("completed", "stop")
    tally.add("completed", "stop", amount=2)
    tally.add("failed", "stop", amount=0.5)
    assert tally.sums() == {("completed", "stop"): 3, ("failed", "stop"): 0.5}


def test_what_comes_from_outside_cannot_make_it_grow_without_end():
    """New values of the last label are counted together when there are many, and long ones are cut."""
    tally = Tally(most=2)
    for model in ("a", "b", "c", "d", "a"):
        tally.add("prompt", model)
    assert tally.sums() == {("prompt", "a"): 2, ("prompt", "b"): 1, ("prompt", "other"): 2}
    tally = Tally()
    tally.add("m" * 10_000)
    assert [len(labels[0]) for labels in tally.sums()] == [100]


def test_values_fall_into_buckets():
    """A bound belongs to its bucket, as Prometheus has it; what is over all bounds is in the last one."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 2.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.sum == 2.65
