"""`python -m daemon.worker [inspect]`: the worker in an interpreter of its own, on the socket in BATON_FD.

Decides nothing: a fork server's child calls the same two functions.
"""

from __future__ import annotations

import os
import sys

from daemon.worker.main import inspect, serve

if __name__ == "__main__":
    socket_fd = int(os.environ.pop("BATON_FD"))
    if sys.argv[1:] == ["inspect"]:
        inspect(socket_fd)
    serve(socket_fd)
