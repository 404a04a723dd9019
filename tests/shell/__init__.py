"""Each module of the shell, with real processes, sockets and files."""
