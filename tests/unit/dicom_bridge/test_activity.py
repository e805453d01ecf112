"""Open associations by study: counted while open, and while they bring something."""

from __future__ import annotations

from dicom_bridge.activity import Activity


class Seconds:
    """A clock that only moves when told."""

    now = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


def test_an_association_counts_for_what_it_carried_until_it_closes() -> None:
    """Opened, carried two studies, closed."""
    activity = Activity()
    activity.opened("a", "PACS")
    assert (activity.total(), activity.count("1.2")) == (1, 0)
    activity.carried("a", "1.2")
    activity.carried("a", "1.3")
    activity.opened("b", "PACS")
    activity.carried("b", "1.2")
    assert (activity.count("1.2"), activity.count("1.3"), activity.count("1.4")) == (2, 1, 0)
    assert activity.closed("a")
    assert (activity.count("1.2"), activity.count("1.3")) == (1, 0)


def test_what_was_never_open_changes_nothing() -> None:
    """A rejected association closes without having been open."""
    activity = Activity()
    assert not activity.closed("a")
    activity.carried("a", "1.2")
    assert (activity.count("1.2"), activity.total()) == (0, 0)


def test_a_silent_association_may_be_left_out() -> None:
    """With a limit, one that brought nothing for longer does not count; its next image makes it count again."""
    clock = Seconds()
    activity = Activity(clock)
    activity.opened("a", "PACS")
    activity.carried("a", "1.2")
    clock.now = 2.0
    assert activity.count("1.2", active_within_s=2.0) == 1
    assert activity.count("1.2", active_within_s=1.9) == 0
    assert activity.count("1.2") == 1
    activity.carried("a", "1.2")
    assert activity.count("1.2", active_within_s=0.0) == 1
