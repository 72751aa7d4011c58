"""Messages between proven peers: framing, sealing, the Transport port and the Switchboard."""

from shardline.wire.frames import (
    FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    SEGMENTS_MAX,
    decode_frame,
    encode_frame,
)
from shardline.wire.handshake import MEMBERSHIP_KEY_BYTES
from shardline.wire.keys import verify
from shardline.wire.messages import (
    BLOCK_DEFAULT,
    BLOCK_MAX,
    BLOCK_MIN,
    BURST_BYTES_MAX,
    COUNT_MAX,
    DIGEST_BYTES,
    EVERY_STEP,
    PREFIX_PAGES_MAX,
    Close,
    Failed,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Reroute,
    Result,
    Spent,
    Step,
)
from shardline.wire.switchboard import Switchboard
from shardline.wire.transport import ChannelClosed, Pipe, Transport
from shardline.wire.transports.iroh import IrohTransport
from shardline.wire.transports.iroh_engine import IrohSettings
from shardline.wire.transports.memory import MemoryNetwork, MemoryTransport
from shardline.wire.transports.zenoh import ZenohTransport
from shardline.wire.transports.zenoh_engine import (
    TlsFiles,
    ZenohEngine,
    ZenohSettings,
    claim_address,
    is_own_address,
    join_address,
    open_zenoh,
    split_address,
)

__all__ = [
    "BLOCK_DEFAULT",
    "BLOCK_MAX",
    "BLOCK_MIN",
    "BURST_BYTES_MAX",
    "COUNT_MAX",
    "DIGEST_BYTES",
    "EVERY_STEP",
    "FRAME_BYTES_MAX",
    "HEADER_BYTES_MAX",
    "MEMBERSHIP_KEY_BYTES",
    "PREFIX_PAGES_MAX",
    "SEGMENTS_MAX",
    "ChannelClosed",
    "Close",
    "Failed",
    "IrohSettings",
    "IrohTransport",
    "MemoryNetwork",
    "MemoryTransport",
    "Message",
    "Open",
    "Opened",
    "Ping",
    "Pipe",
    "Pong",
    "Reroute",
    "Result",
    "Spent",
    "Step",
    "Switchboard",
    "TlsFiles",
    "Transport",
    "ZenohEngine",
    "ZenohSettings",
    "ZenohTransport",
    "claim_address",
    "decode_frame",
    "encode_frame",
    "is_own_address",
    "join_address",
    "open_zenoh",
    "split_address",
    "verify",
]
