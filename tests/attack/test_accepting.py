"""New connections are accepted between others' requests, and cost little until they speak."""

import asyncio
import contextlib
import errno
import gc
import socket

from service.connections import Connections
from service.http_protocol import HttpProtocol
from service.paced_server import PORTION, PacedServer
from service.silent_connections import SWEEP_PORTION, SilentConnections
from service.start_checks import listen
from tests.attack.edge import GET, LAST, edge, is_closed, read_all, until, wait_until
from tests.attack.test_connections import LONG, WAIT


def n_protocols() -> int:
    return sum(type(one) is HttpProtocol for one in gc.get_objects())


def test_a_connection_has_no_protocol_before_its_first_byte():
    with edge(LONG) as server, contextlib.ExitStack() as held:
        before = n_protocols()
        silent = [held.enter_context(server.connect()) for _ in range(50)]
        wait_until(lambda: server.connections.n_open == 50)
        assert n_protocols() == before
        silent[7].sendall(GET)
        assert silent[7].recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert n_protocols() == before + 1
        assert server.connections.n_open == 50
        silent[8].sendall(LAST)
        assert read_all(silent[8]).startswith(b"HTTP/1.1 200 ")
        for connection in silent:
            connection.close()
        wait_until(lambda: server.connections.n_open == 0)


def test_a_stop_closes_connections_that_have_sent_nothing():
    with edge(LONG) as server:
        connection = server.connect()
        wait_until(lambda: server.connections.n_open == 1)
    with connection:
        assert is_closed(connection)
    assert server.connections.n_open == 0


def test_any_number_of_connections_too_many_is_told_so():
    with edge(LONG, most=1) as server, server.connect() as running:
        running.sendall(WAIT)
        wait_until(lambda: server.n_running == 1)
        for _ in range(300):  # more than may be told at the same time
            assert server.exchange().startswith(b"HTTP/1.1 503 ")


async def test_others_go_on_between_a_few_connections_and_the_next():
    (listener,) = listen("127.0.0.1", 0)
    with contextlib.ExitStack() as held:
        for _ in range(40):
            held.enter_context(socket.create_connection(listener.getsockname()))
        loop, events, taken = asyncio.get_running_loop(), [], []

        def take(connection: socket.socket, _: str) -> None:
            taken.append(held.enter_context(connection))
            events.append("c")

        def other() -> None:
            events.append(" ")
            if len(taken) < 40:
                loop.call_soon(other)

        server = PacedServer(loop, listener, take)
        loop.call_soon(other)
        await until(lambda: len(taken) == 40 and events[-1] == " ")
        server.close()
    assert max(map(len, "".join(events).split())) <= PORTION


class Leaving(Connections):
    """A count of connections that says when one has left."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(100, 100)
        self.events = events

    def leave(self, connection) -> None:
        super().leave(connection)
        self.events.append("c")


async def test_others_go_on_while_many_that_have_sent_nothing_are_closed():
    loop, events = asyncio.get_running_loop(), []
    connections = Leaving(events)
    silent = SilentConnections(loop, connections, 0.0, asyncio.Protocol)

    def other() -> None:
        events.append(" ")
        if connections.n_open:
            loop.call_soon(other)

    pairs = [socket.socketpair() for _ in range(40)]
    for mine, _ in pairs:
        silent.add(mine, "192.0.2.1")
    assert connections.n_open == 40
    loop.call_soon(other)
    await until(lambda: connections.n_open == 0 and events[-1] == " ")
    silent.close()
    assert max(map(len, "".join(events).split())) <= SWEEP_PORTION
    for _, its in pairs:
        assert its.recv(1) == b""
        its.close()


async def test_a_closed_connection_of_which_another_process_has_the_socket_is_not_heard():
    loop, faults = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    connections = Connections(1, 1)
    silent = SilentConnections(loop, connections, 60.0, asyncio.Protocol)
    mine, its = socket.socketpair()
    with mine.dup(), its:
        silent.add(mine, "192.0.2.1")
        other, _ = pair = socket.socketpair()
        silent.add(other, "192.0.2.1")  # the first one makes room for it
        its.sendall(b"GET")
        await asyncio.sleep(0.05)
        assert faults == []
        assert connections.n_open == 1
        silent.close()
        pair[1].close()
    assert connections.n_open == 0


async def test_what_has_connected_before_the_end_is_accepted():
    (listener,) = listen("127.0.0.1", 0)
    taken = []
    server = PacedServer(asyncio.get_running_loop(), listener, lambda one, _: taken.append(one))
    with contextlib.ExitStack() as held:
        for _ in range(10):
            held.enter_context(socket.create_connection(listener.getsockname()))
        server.close()
        assert len(taken) == 10
        for one in taken:
            one.close()
    assert not server.is_serving()
    server.close()


class Crowded(socket.socket):
    """A listening socket of a process that, for a while, may open no more files."""

    n_refused = 0

    def accept(self):
        if self.n_refused < 3:
            self.n_refused += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_connection_is_accepted_when_there_is_a_file_for_it_again():
    listener, taken = Crowded(), []
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = PacedServer(asyncio.get_running_loop(), listener, lambda one, _: taken.append(one))
    with socket.create_connection(listener.getsockname()):
        await until(lambda: taken)
        taken[0].close()
    assert listener.n_refused == 3
    server.close()
