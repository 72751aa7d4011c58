"""Every error of the house; an error's branch is its remedy.

    ShardlineError
    ├── GiveUp              asking again gives the same answer
    │   ├── BadInput        what the person gave is wrong; the command line ends with code 2
    │   │   ├── NoSuchModel, CorruptWeights, NoChain, BlocksOutOfRange, SpanTooLarge
    │   │   ├── BadInvite (InviteExpired, ForeignInvite), ProtocolMismatch
    │   │   └── PromptTooLong, AddressTaken, NotCovered, Unsupported
    │   └── PeerFault       a peer broke the protocol: it is cut off, the node serves on
    ├── TryLater            the same place may say yes soon
    │   └── CacheFull
    └── TryElsewhere        another node may do it
        └── NodeLost, StepTimeout, SessionUnknown, StepFailed, JournalLost

An error that a node answers with crosses the wire by its class name and one line of text.
"""

from __future__ import annotations

__all__ = [
    "AddressTaken",
    "BadInput",
    "BadInvite",
    "BlocksOutOfRange",
    "CacheFull",
    "CorruptWeights",
    "ForeignInvite",
    "GiveUp",
    "InviteExpired",
    "JournalLost",
    "NoChain",
    "NoSuchModel",
    "NodeLost",
    "NotCovered",
    "PeerFault",
    "PromptTooLong",
    "ProtocolMismatch",
    "SessionUnknown",
    "ShardlineError",
    "SpanTooLarge",
    "StepFailed",
    "StepTimeout",
    "TryElsewhere",
    "TryLater",
    "Unsupported",
    "one_line",
    "remote_error",
]


class ShardlineError(Exception):
    """Base of all errors that shardline raises on purpose; its text is one line for a person."""


class GiveUp(ShardlineError):
    """Asking again, here or elsewhere, gives the same answer."""


class BadInput(GiveUp):
    """What the person gave cannot be used; the text says what to give instead."""


class NoSuchModel(BadInput):
    """No model directory and no hub id of this name."""


class CorruptWeights(BadInput):
    """A weights file is truncated or damaged; the text names the file and what is wrong."""


class NoChain(BadInput):
    """The model has no chain of repeated blocks; the text says which route would serve."""


class BlocksOutOfRange(BadInput):
    """The span asked for is not within the model."""


class SpanTooLarge(BadInput):
    """The span does not fit the memory; the text says how many blocks do."""


class BadInvite(BadInput):
    """The text is no invite."""


class InviteExpired(BadInvite):
    """The invite was good once."""


class ForeignInvite(BadInvite):
    """The invite is of another swarm than the one that answers at its addresses."""


class ProtocolMismatch(BadInput):
    """The other side speaks another version of the protocol; the text names both."""


class PromptTooLong(BadInput):
    """The prompt does not fit the model's context."""


class AddressTaken(BadInput):
    """The address to listen on is in use or not this machine's."""


class NotCovered(BadInput):
    """No chain of live nodes covers the model; the text says which blocks nobody holds."""


class Unsupported(BadInput):
    """What was asked is not built; the text says what is."""


class PeerFault(GiveUp):
    """A peer broke the protocol: garbage, an oversized frame, a wrong shape or type."""


class TryLater(ShardlineError):
    """The same place may say yes soon."""


class CacheFull(TryLater):
    """The node cannot hold more tokens now; the text says how many were asked and are free."""


class TryElsewhere(ShardlineError):
    """This node cannot, another one may."""


class NodeLost(TryElsewhere):
    """A node of the chain went away; the text names it."""


class StepTimeout(TryElsewhere):
    """A node did not answer in time; the text names the wait."""


class SessionUnknown(TryElsewhere):
    """The node has no such session (it restarted, or the lease ran out)."""


class JournalLost(TryElsewhere):
    """What was sent is not kept any more, so it cannot be sent again from here."""


class StepFailed(TryElsewhere):
    """The node's own computation failed; the text says how."""


_REMOTE = {
    error.__name__: error
    for error in (
        CacheFull,
        JournalLost,
        NodeLost,
        PeerFault,
        SessionUnknown,
        SpanTooLarge,
        StepFailed,
        TryElsewhere,
    )
}


def one_line(text: str) -> str:
    """A text, whoever wrote it, on one line and without what it might do to a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def remote_error(name: str, text: str) -> ShardlineError:
    """The error a node answered with, its text on one line, whatever the node wrote.

    A name we do not know (a newer node's) is a TryElsewhere.
    """
    return _REMOTE.get(name, TryElsewhere)(one_line(text))
