"""A process that has TensorFlow imported and forks what it is asked for: a worker in 10 ms. Tests no thing itself.

Run as a program with the number of a seqpacket socket. A request is one packet of JSON, with a descriptor where
the child is to have one: {"call": [module, function, arguments...], "log": path} is answered {"pid"},
{"wait": pid} with {"status"}: negative for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]


def child(module: str, function: str, *arguments: object) -> None:
    """Call the function, then end as a program would."""
    status = 1
    try:
        getattr(importlib.import_module(module), function)(*arguments)
        status = 0
    except BaseException:  # noqa: BLE001 - a forked child must not go on as its parent, whatever happens
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    import daemon.worker.batch
    import daemon.worker.inspector  # noqa: F401 - both are preloaded: that is what this process is for

    line = socket.socket(fileno=int(sys.argv[1]))
    line.send(json.dumps({"threads": len(list(Path("/proc/self/task").iterdir()))}).encode())
    while True:
        packet, fds, _, _ = socket.recv_fds(line, 1 << 16, 4)
        if not packet:
            return
        request = json.loads(packet)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            line.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())
            continue
        pid = os.fork()
        if pid == 0:
            os.setsid()
            line.close()
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 2)
            os.dup2(log, 1)
            child(*request["call"], *fds)
        for fd in fds:
            os.close(fd)
        line.send(json.dumps({"pid": pid}).encode())


if __name__ == "__main__":
    main()
