"""The group as a value: news in any order gives the state that SEMANTICS.md sections 1, 3 and 4 promise."""

from pyha.ha.group import Cause, Group, Member, Occasion, State
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role

A, B, C = 0, 1, 2
EVERY_SECOND = RecoverySettings(RecoveryMode.BACKGROUND, interval=1.0)


def group(*roles: Role) -> Group:
    return Group(tuple(Member(f"m{index}", role) for index, role in enumerate(roles)))


def three() -> Group:
    return group(Role.ACTIVE, Role.ACTIVE, Role.ACTIVE)


def test_nobody_serves_before_being_contacted() -> None:
    assert three().serving() == ()
    assert three().present() == ()


def test_joined_members_serve_in_configured_order() -> None:
    assert three().joined(C, 1).joined(A, 1).serving() == (A, C)


def test_a_lost_member_serves_no_more_and_says_why() -> None:
    after = three().joined(A, 1).joined(B, 1).lost(A, 1, "its helper ended")
    assert after.serving() == (B,)
    assert (after.members[A].state, after.members[A].reason) == (State.FAILED, "its helper ended")


def test_news_of_an_older_generation_changes_nothing() -> None:
    now = three().joined(A, 2)
    assert now.lost(A, 1, "a late answer") is now


def test_the_first_reason_of_a_loss_stays() -> None:
    once = three().joined(A, 1).lost(A, 1, "first")
    assert once.lost(A, 1, "second") is once


def test_a_member_that_never_came_is_lost_by_its_first_connection() -> None:
    after = three().lost(B, 1, "cannot be started")
    assert after.members[B].state is State.FAILED


def test_standby_members_receive_objects_and_serve_nothing_while_an_active_one_is_left() -> None:
    now = group(Role.STANDBY, Role.ACTIVE, Role.ACTIVE).joined(A, 1).joined(B, 1).joined(C, 1)
    assert now.serving() == (B, C)
    assert now.present() == (B, C, A)


def test_all_standby_members_serve_when_no_active_one_is_left() -> None:
    now = group(Role.ACTIVE, Role.STANDBY, Role.STANDBY).joined(A, 1).joined(B, 1).joined(C, 1)
    assert now.lost(A, 1, "gone").serving() == (B, C)


def test_a_disabled_member_does_not_join() -> None:
    disabled = Group((Member("m0", state=State.DISABLED),))
    assert disabled.joined(0, 1) is disabled
    assert not disabled.complete()


def test_complete_means_every_configured_member() -> None:
    two = group(Role.ACTIVE, Role.STANDBY).joined(A, 1)
    assert not two.complete()
    assert two.joined(B, 1).complete()


def test_the_loss_of_all_is_announced_once_until_a_member_is_back() -> None:
    gone = three().joined(A, 1).lost(A, 1, "gone").announce()
    assert gone.announced
    assert not gone.joined(B, 1).announced


def differing() -> Group:
    """The first member serves; the last has been looked at so often that the next look is far away. The second one has
    been lost."""
    now = three().joined(A, 1).lost(B, 1, "gone").lost(C, 1, "gone")
    for attempt in range(6):
        now = now.recovering(C)
        now = now.stays_out(C, now.members[C].generation, "its objects differ", float(attempt), Cause.DIFFERS)
    assert C not in now.due(EVERY_SECOND, Occasion.TIME, 15.0)
    return now


def test_who_differs_is_needed_soon_where_nobody_else_is_left() -> None:
    """It may serve then: not after sixteen intervals without service."""
    now = differing().lost(A, 1, "gone")
    assert C in now.due(EVERY_SECOND, Occasion.TIME, 6.0)


def test_who_differs_is_looked_at_soon_where_the_others_are_others_now() -> None:
    """Another member brings what it lacks, or the one goes that had what nobody else can be given."""
    back = differing().recovering(B)
    back = back.returned(B, back.members[B].generation, 5.5)
    assert C in back.due(EVERY_SECOND, Occasion.TIME, 6.0)
    assert C in differing().taken_out(B, State.REMOVED, "removed").due(EVERY_SECOND, Occasion.TIME, 6.0)
