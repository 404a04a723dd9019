"""Hostile peers against the daemon's two sockets, from a seed. By hand: `python -m tests.fuzz`."""
