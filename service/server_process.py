"""The composition root of one of a server's processes: `python -m service.server_process`."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial

from service.announcement import Announcer, show
from service.app import create_app
from service.errors import CarouselError
from service.fleet.join import ServerProcess
from service.parent_bond import end_with_parent
from service.process_supervisor import BEGIN_DRAIN, DRAIN, EMPTY, READY, REPLACEMENT, RETIRE
from service.server import serve
from service.settings import Settings
from service.telemetry import log_to_stderr


def main() -> None:
    """Serve, as the arguments say: PARENT INDEX PIPE KIND ORDER SOCKET[,SOCKET] METRICS.

    KIND is that of the store, `shared` or `private`; ORDER is `first`, or `replacement`, which
    listens when its models are loaded. The pipe and the sockets are descriptors of the parent;
    METRICS is "" where the metrics have no listener.
    """
    parent, index, pipe, kind, order, listeners, metrics = sys.argv[1:]
    end_with_parent(int(parent))
    for number in (signal.SIGHUP, RETIRE, BEGIN_DRAIN):
        signal.signal(number, signal.SIG_IGN)  # until the server handles the last two
    signal.signal(signal.SIGTERM, _exit_normally)
    settings = Settings.read()
    log_to_stderr(settings.log_level, settings.log_format)
    sockets = [socket.socket(fileno=int(each)) for each in listeners.split(",")]
    metrics_socket = socket.socket(fileno=int(metrics)) if metrics else None
    assert settings.redis_url is not None
    process = ServerProcess(
        int(index),
        keeps_record=kind == "private" and index == "0",
        listens_late=order == REPLACEMENT,
    )
    url = settings.redis_url.get_secret_value()
    app = create_app(settings, url, metrics_socket=metrics_socket, process=process)
    app.state.carousel.drain_others = partial(_say, int(pipe), DRAIN)
    is_speaker = index == "0" and order != REPLACEMENT

    def say_empty(advice: Sequence[str]) -> None:
        if is_speaker:  # one of them is enough
            show(advice)
        _say(int(pipe), EMPTY)

    serve(settings, app, sockets, announcer=Announcer(say_empty, partial(_say, int(pipe), READY)))


def _say(pipe: int, word: bytes) -> None:
    with contextlib.suppress(OSError):  # the parent has ended, and this process ends with it
        os.write(pipe, word)


def _exit_normally(*_: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    try:
        main()
    except CarouselError as refusal:
        sys.exit(f"carousel: {refusal}")
    except KeyboardInterrupt:
        pass  # the parent says goodbye
