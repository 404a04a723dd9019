"""batond with the terminal that the environment names as its controlling one, as a shell would start it."""

from __future__ import annotations

import os

from daemon.__main__ import main

if __name__ == "__main__":
    os.open(os.environ["TERMINAL"], os.O_RDWR)  # the first that a leader of a process session opens becomes that
    main()
