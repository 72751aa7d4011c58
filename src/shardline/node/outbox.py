"""What leaves a node: steps that go on, results, failures; and what is kept to be sent again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from shardline.core.errors import JournalLost, NodeLost, ShardlineError, Unsupported
from shardline.core.ids import short
from shardline.swarm import Follower, Journals
from shardline.wire import EVERY_STEP, Failed, Result, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.core.ids import NodeId, Seat
    from shardline.core.segments import Segment
    from shardline.node.seats import SeatState
    from shardline.swarm import Entry
    from shardline.wire import Message, Reroute

__all__ = ["Outbox", "Post"]

_log = logging.getLogger(__name__)

FORWARD_S = 20.0
"""How long a node tries to hand a step on. Longer rides out a stall of the link, shorter tells the
caller sooner that the next node is lost."""

JOURNAL_BYTES = 2**28
"""What a node keeps to send again, over all seats. More lets longer sessions mend one span alone;
sessions that outgrow it are rebuilt from their caller's side."""

AGAIN_MAX = 16
"""How often a seat sends the same again, because a small message asked for it: rebuilding the seat
costs an honest caller little more, and nobody gets much more out of a node than was put in."""


class Post(Protocol):
    """What a node asks of the switchboard."""

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        """Deliver to a peer's handler, dialling it if needed."""
        ...

    def send_now(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> bool:
        """As `send`, if that takes no wait; False if it would, and `send` must be used."""
        ...

    def hang_up(self, peer: NodeId, error: ShardlineError) -> None:
        """End the channel to a peer that broke the protocol."""
        ...


class Outbox:
    """Sends for the seats of one node; the caller is told of everything that does not arrive."""

    def __init__(self, me: NodeId, post: Post) -> None:
        self._me = me
        self._post = post
        self._journals = Journals(JOURNAL_BYTES)

    async def send_on(
        self, seat: Seat, state: SeatState, step: int, out: Sequence[Segment], *, replayed: bool
    ) -> None:
        """Note a step's outputs, and send them where this seat sends to."""
        self._journals.add(seat, step, out, only=state.next is None)
        if self._journals.size_bytes > JOURNAL_BYTES:  # though only last steps are left
            self._journals.drop(seat)
        state.again = 0
        async with state.sending:
            if not replayed or step >= state.next_has:  # else the next node has it from before
                await self._hand_on(seat, state, step, out, replay=replayed)
            state.behind = 0  # nobody follows what is sent again
        if state.ahead is not None:
            state.ahead.more()

    async def send_again(self, seat: Seat, state: SeatState) -> None:
        """Send the last outputs once more: what they led to was lost.

        Raises JournalLost if they are not kept, or were sent too often.
        """
        last = self._journals.last(seat)
        self._count_again(state)
        if last is None:
            raise JournalLost("the last step is not kept any more")
        async with state.sending:
            await self._hand_on(seat, state, last.step, last.segments, replay=False)

    async def send_ahead(self, seat: Seat, state: SeatState, wanted: Reroute) -> None:
        """Send a standby all that is noted, and every step from now on, until told otherwise.

        Its loss is told to the caller, and is no matter for anybody else.
        """
        if state.ahead is not None:
            state.ahead.stop()
            state.ahead = None
        to = wanted.next
        if to == state.next:
            return

        async def send(peer: NodeId, entry: Entry) -> None:
            place = seat.session, state.span.stop, entry.step, state.caller
            segments = state.wiring.readable(entry.segments, wanted.wire)
            await self._post.send(peer, Step(*place, [], replay=True), segments)

        follower = state.ahead = Follower(self._journals, seat, to, send)
        try:
            self._count_reroute(state)
            await follower.run()
        except ShardlineError as error:
            if state.ahead is follower:
                state.ahead = None
                await self.fail(state.caller, seat, state.expected, error, about=to)

    async def send_all_to(self, seat: Seat, state: SeatState, wanted: Reroute) -> None:
        """From now on this seat sends to another node, which first gets all that was sent.

        It knows the steps before `since`, and less if it was sent less ahead. Raises JournalLost
        if what it needs is not kept any more, or was sent too often.
        """
        to, since = wanted.next, wanted.since
        state.next = to
        state.wiring.turn_to(wanted.wire)
        if since == EVERY_STEP:
            state.next_has = since
            return
        if state.ahead is not None and state.ahead.to == to:
            since = min(since, state.ahead.has)
            state.ahead.stop()
            state.ahead = None
        state.rerouting += 1
        state.give_up_sending()
        async with state.sending:
            state.rerouting -= 1
            entries = self._journals.since(seat, since)
            if state.expected > since and not entries:
                raise JournalLost("what was sent is not kept any more")
            if len(entries) == 1 and since:
                self._count_again(state)
            else:
                self._count_reroute(state)
            state.next_has = entries[-1].step + 1 if entries else since
            for entry in entries:
                replay = entry is not entries[-1]
                await self._hand_on(seat, state, entry.step, entry.segments, replay=replay)

    @staticmethod
    def _count_again(state: SeatState) -> None:
        state.again += 1
        if state.again > AGAIN_MAX:
            raise JournalLost(f"the last step was sent again {AGAIN_MAX} times already")

    @staticmethod
    def _count_reroute(state: SeatState) -> None:
        state.reroutes += 1
        if state.reroutes > AGAIN_MAX:
            raise JournalLost(f"this seat was rerouted {AGAIN_MAX} times already")

    def forget(self, seat: Seat) -> None:
        """Nothing of this seat will be sent again."""
        self._journals.drop(seat)

    async def tell(self, peer: NodeId, message: Message) -> None:
        """Send if the peer is still there; if not, nobody waits for it."""
        with contextlib.suppress(TimeoutError, ShardlineError):
            async with asyncio.timeout(FORWARD_S):
                await self._post.send(peer, message)

    async def fail(
        self,
        caller: NodeId,
        seat: Seat,
        step: int | None,
        error: ShardlineError,
        about: NodeId | None = None,
    ) -> None:
        """Tell a session's caller what could not be done, and which node is to blame if not we."""
        _log.info("session %s, step %s: %s", seat.session[:8], step, error)
        await self.tell(caller, Failed.of(seat.session, step, self._me, error, about))

    async def _hand_on(
        self, seat: Seat, state: SeatState, step: int, out: Sequence[Segment], *, replay: bool
    ) -> None:
        if state.closed or state.rerouting:
            return
        spent, to = state.last_spent, state.next
        message: Message = Result(seat.session, step, spent)
        if to is not None:
            place = seat.session, state.span.stop, step, state.caller
            attach, behind = state.attached if step == 1 else 0, state.behind
            message = Step(*place, spent, replay, attach, behind, state.slowest_us)
        letter = to or state.caller, message, state.wiring.readable(out)
        try:
            if self._post.send_now(*letter):
                return
            async with asyncio.timeout(FORWARD_S) as patience:
                state.patience = patience
                try:
                    await self._post.send(*letter)
                finally:
                    state.patience = None
        except Unsupported as error:
            await self.fail(state.caller, seat, step, error)
        except (TimeoutError, ShardlineError) as error:
            wanted = not state.closed and not state.rerouting
            if to is not None and wanted:
                reason = str(error) or f"no way through within {FORWARD_S:.0f} s"
                lost = NodeLost(f"node {short(to)} cannot be reached: {reason}")
                await self.fail(state.caller, seat, step, lost, about=to)
