"""The shell of batond: processes, sockets, files and clocks. It acts; what to do is decided in `states`."""
