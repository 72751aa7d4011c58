"""Cables between real nodes that can be cut, slowed and spoilt.

Each node lives in a network namespace of its own, and one process, the carrier, takes every byte
from one to another. A node's address is the same everywhere: in its own network the node listens on
it, in all others the carrier does. So whatever nodes tell each other of their addresses leads
through the carrier, and no node needs to know of it. Linux only, and namespaces are root's to make.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import random
import socket
import struct
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from shardline.core.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterator, Sequence
    from multiprocessing.context import ForkServerContext

__all__ = ["Cables", "Place", "cables", "enter"]

LOCALHOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 30_000)
"""Below those that the kernel gives to whoever dials out."""
START_S: Final = 30.0
CHUNK_BYTES: Final = 2**16
UNDER_WAY_MAX: Final = 64
"""Chunks on the way in one direction of a connection; the sender waits beyond."""
SLOW_LATENCY_S: Final = 0.05
"""What a slow cable adds to whatever comes at once, each way."""
SLOW_BYTES_PER_S: Final = 2**18
NO_LAG: Final = (0.0, 0.0)
"""Seconds for whatever comes at once, and for each byte of it."""
_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_UP_AND_RUNNING: Final = 0x41
_OWN_NETWORK: Final = "/proc/thread-self/ns/net"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node's process lives."""

    listen: str
    """HOST:PORT, which leads to it from everywhere."""
    network: str
    """The file of its network namespace, for `enter`."""


class _Pipe(Protocol):
    def send_bytes(self, buf: bytes) -> None: ...

    def recv_bytes(self) -> bytes: ...

    def poll(self, timeout: float) -> bool: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Cables:
    """The places, and what can be done to the cable of each; every call holds once it returns."""

    def __init__(self, pipe: _Pipe, places: Sequence[Place]) -> None:
        self.places = tuple(places)
        self._pipe = pipe

    def cut(self, place: Place) -> None:
        """Nothing goes in or out any more; nobody is told, as when a cable is pulled."""
        self._order("cut", place)

    def slow(
        self,
        place: Place,
        latency_s: float = SLOW_LATENCY_S,
        bytes_per_s: float = SLOW_BYTES_PER_S,
    ) -> None:
        """Whatever comes at once takes so much longer, each way, and goes at this rate."""
        self._order("slow", place, lag=(latency_s, 1 / bytes_per_s))

    def spoil(self, place: Place, other: Place) -> None:
        """Every connection between the two that is open now has one bit flipped, each way."""
        self._order("spoil", place, other)

    def reset(self, place: Place, other: Place) -> None:
        """Every connection between the two that is open now is reset, as by a router between."""
        self._order("reset", place, other)

    def heal(self, place: Place) -> None:
        """The cable is as it was; what waits in it goes on."""
        self._order("heal", place)

    def _order(self, what: str, *places: Place, lag: tuple[float, float] = NO_LAG) -> None:
        numbers = [self.places.index(place) + 1 for place in places]
        self._pipe.send_bytes(json.dumps([what, numbers, lag]).encode())
        self._pipe.recv_bytes()


@contextlib.contextmanager
def cables(outside: str, count: int, context: ForkServerContext) -> Generator[Cables]:
    """So many places with cables between them and to this process's own network.

    `outside` is the address HERE that nodes dial. Raises Unsupported where namespaces cannot be
    made.
    """
    pipe, far = context.Pipe()
    carrier = context.Process(target=_carry, args=(outside, count, far), daemon=True)
    carrier.start()
    far.close()
    try:
        word = json.loads(pipe.recv_bytes()) if pipe.poll(START_S) else "the carrier did not start"
        if isinstance(word, str):
            raise Unsupported(f"no networks can be made for single nodes: {word} (are you root?)")
        yield Cables(pipe, [Place(**place) for place in word])
    finally:
        pipe.close()
        carrier.join()


def enter(network: str) -> None:
    """Move this thread, and those that it will start, into a network namespace."""
    file = os.open(network, os.O_RDONLY)
    try:
        _system("setns", file, _CLONE_NEWNET)
    finally:
        os.close(file)


def _system(name: str, *arguments: int) -> None:
    """A call that Python 3.11 has no word for; raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


# --- THE CARRIER'S OWN PROCESS ---


def _carry(outside: str, count: int, pipe: _Pipe) -> None:
    """Say where the places are, or in words what went wrong; then carry until the pipe ends."""
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        try:
            carrier = _Carrier(int(outside.rpartition(":")[2]), count)
        except OSError as error:
            pipe.send_bytes(json.dumps(error.strerror).encode())
            return
        asyncio.run(carrier.run(pipe))


@contextlib.contextmanager
def _inside(network: int) -> Generator[None]:
    """Sockets that are made meanwhile belong to this network, and stay there."""
    home = os.open(_OWN_NETWORK, os.O_RDONLY)
    try:
        _system("setns", network, _CLONE_NEWNET)
        yield
    finally:
        _system("setns", home, _CLONE_NEWNET)
        os.close(home)


def _new_network() -> int:
    """A network with nothing but its loopback."""
    home = os.open(_OWN_NETWORK, os.O_RDONLY)
    try:
        _system("unshare", _CLONE_NEWNET)
        with socket.socket(type=socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _UP_AND_RUNNING))
        return os.open(_OWN_NETWORK, os.O_RDONLY)
    finally:
        _system("setns", home, _CLONE_NEWNET)
        os.close(home)


def _listener(network: int, port: int) -> socket.socket:
    with _inside(network):
        return socket.create_server((LOCALHOST, port))


class _Cable:
    """One place's way to all others."""

    def __init__(self) -> None:
        self.whole = asyncio.Event()
        self.whole.set()
        self.lag = NO_LAG


@dataclass(eq=False, slots=True)
class _Link:
    """One connection between two networks, through the cables of both."""

    ends: set[int]
    way: tuple[_Cable, _Cable]
    spoilt: int = 0
    """How often; each direction sees to it that it spoils as many times."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """It is reset."""


class _Carrier:
    """Listens in every network in the others' names. Network 0 is the one outside."""

    def __init__(self, outside_port: int, count: int) -> None:
        outside = os.open(_OWN_NETWORK, os.O_RDONLY)
        self._networks = [outside, *(_new_network() for _ in range(count))]
        self._ports = [outside_port]
        self._listeners: list[tuple[socket.socket, int, int]] = []
        free = iter(random.sample(PORTS, len(PORTS)))
        for target in range(1, count + 1):
            self._listen(0, target, free)
        for origin in range(1, count + 1):
            for target in range(count + 1):
                if origin != target:
                    self._listeners.append(
                        (_listener(self._networks[origin], self._ports[target]), origin, target)
                    )
        self._links: list[_Link] = []
        self._cables = [_Cable() for _ in range(count + 1)]

    def _listen(self, origin: int, target: int, free: Iterator[int]) -> None:
        """Outside others listen too: take the first port that is free."""
        for port in free:
            with contextlib.suppress(OSError):
                self._listeners.append((_listener(self._networks[origin], port), origin, target))
                self._ports.append(port)
                return
        raise OSError(0, "no port is free")

    async def run(self, pipe: _Pipe) -> None:
        """Carry, and do what the pipe says, until it ends."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def obey() -> None:
            try:
                order: tuple[str, list[int], tuple[float, float]] = json.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                loop.remove_reader(pipe.fileno())
                over.set()
                return
            self._obey(*order)
            pipe.send_bytes(b"done")

        async with asyncio.TaskGroup() as tasks:
            for listener, origin, target in self._listeners:
                tasks.create_task(self._take(listener, origin, target, tasks))
            pipe.send_bytes(json.dumps(self._places()).encode())
            loop.add_reader(pipe.fileno(), obey)
            await over.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    def _places(self) -> list[dict[str, str]]:
        own = f"/proc/{os.getpid()}/fd"
        pairs = zip(self._ports[1:], self._networks[1:], strict=True)
        return [asdict(Place(f"{LOCALHOST}:{port}", f"{own}/{network}")) for port, network in pairs]

    def _obey(self, what: str, places: list[int], lag: tuple[float, float]) -> None:
        cable = self._cables[places[0]]
        match what:
            case "cut":
                cable.whole.clear()
            case "slow":
                cable.lag = lag
            case "spoil":
                for link in self._links:
                    if link.ends.issuperset(places):
                        link.spoilt += 1
            case "reset":
                for link in self._links:
                    if link.ends.issuperset(places):
                        link.over.set()
            case _:
                cable.lag = NO_LAG
                cable.whole.set()

    async def _take(
        self, listener: socket.socket, origin: int, target: int, tasks: asyncio.TaskGroup
    ) -> None:
        """Take whoever calls in one network for an address of another."""
        listener.settimeout(0)
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(listener)
            tasks.create_task(self._connect(near, origin, target))

    async def _connect(self, near: socket.socket, origin: int, target: int) -> None:
        """One connection's life. What goes wrong at one end ends the other."""
        link = _Link({origin, target}, (self._cables[origin], self._cables[target]))
        with near, contextlib.suppress(OSError):
            for cable in link.way:
                await cable.whole.wait()
            with _inside(self._networks[target]):
                far = socket.socket()
            with far:
                far.settimeout(0)
                address = (LOCALHOST, self._ports[target])
                await asyncio.get_running_loop().sock_connect(far, address)
                self._links.append(link)
                try:
                    pumps = _pump(near, far, link), _pump(far, near, link)
                    await _first_to_end(*pumps, _reset(near, far, link))
                finally:
                    self._links.remove(link)


async def _first_to_end(*ways: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _reset(near: socket.socket, far: socket.socket, link: _Link) -> None:
    """Once it is asked for, end the connection so that both ends hear of a reset."""
    await link.over.wait()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _pump(near: socket.socket, far: socket.socket, link: _Link) -> None:
    """One direction of one connection. Its end is a message too: a cut cable keeps it."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY_MAX)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_send_off(near, link, under_way))
        data = b"-"
        while data:
            due_s, data = await under_way.get()
            await asyncio.sleep(due_s - loop.time())
            for cable in link.way:
                await cable.whole.wait()
            await loop.sock_sendall(far, data)


async def _send_off(
    near: socket.socket, link: _Link, under_way: asyncio.Queue[tuple[float, bytes]]
) -> None:
    """What comes is under way for as long as both cables ask: bytes one after the other, delays
    at once, so that much can be on a long way.
    """
    loop = asyncio.get_running_loop()
    spoilt, free_s = link.spoilt, 0.0
    data = b"-"
    while data:
        try:
            data = await loop.sock_recv(near, CHUNK_BYTES)
        except OSError:
            data = b""
        free_s = max(free_s, loop.time()) + len(data) * sum(cable.lag[1] for cable in link.way)
        if data and link.spoilt != spoilt:
            spoilt, middle = link.spoilt, len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        await under_way.put((free_s + sum(cable.lag[0] for cable in link.way), data))
