"""Tests: the core without sleeps, the shell with real processes and sockets."""
