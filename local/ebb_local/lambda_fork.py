"""The process from which Lambda workers are forked: `python -P lambda_fork.py SOCKET_FD FOLDER PATHS MODULE...`

It runs on the functions' interpreter and sees what their layers and their runtime hold, nothing else: the standard
library only is used here, and nothing of this package. It imports what every function would, then forks one worker per
message: the worker takes over the three pipes that came with the message and runs MiniStack's worker script.
A function whose code has a module of the same name as one that is imported already would not get its own: none is
forked for it, the answer is 0. It ends when the server does, because their socket closes.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import NoReturn

MAX_MESSAGE_BYTES = 1 << 18
PIPES = 3


def main(arguments: list[str]) -> None:
    """Import, then fork until the server has gone."""
    number, folder, paths, *modules = arguments
    connection = socket.socket(fileno=int(number))
    os.chdir(folder)
    sys.path[0:0] = [path for path in paths.split(os.pathsep) if path]
    for name in modules:
        with contextlib.suppress(ImportError):  # what is missing here must be missing in the function
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a worker would write to, and so copy, every page that they share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here asks how a worker ended
    while True:
        message, pipes, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, PIPES)
        if not message:
            return
        told = json.loads(message)
        pid = 0 if shadows(told["folder"]) else os.fork() or work(connection, told, pipes)
        for pipe in pipes:
            os.close(pipe)
        connection.send(str(pid).encode())


def shadows(folder: str) -> bool:
    """Return whether a module of the folder has the name of one that is here already."""
    names = {entry.partition(".")[0] for entry in os.listdir(folder)}
    return any(name.partition(".")[0] in names for name in sys.modules if not name.startswith("__"))


def work(connection: socket.socket, told: dict, pipes: list[int]) -> NoReturn:
    """Be the worker: its pipes, its folder, its environment and its script."""
    status = 1
    try:
        connection.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, pipe in enumerate(pipes):
            os.dup2(pipe, number)
            os.close(pipe)
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["environment"])
        with open(told["script"], encoding="utf-8") as script:
            code = compile(script.read(), told["script"], "exec")
        sys.argv = [told["script"]]
        exec(code, {"__name__": "__main__", "__file__": told["script"]})
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
