"""The library a session's own script imports. One file, standard library only."""
