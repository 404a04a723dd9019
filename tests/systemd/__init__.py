"""batond as a service, in a real systemd: booted for a module's tests, in namespaces of its own, and powered off.

As root; nothing of the host is changed. What each module shows:

    test_install      what `make install` puts there; `systemd-analyze verify` prints nothing, `security` 2.0 at most
    test_service      start, status, stop, crash, watchdog, socket activation, upgrade, reload
    test_users        members of the group, by their supplementary groups; others that may look; others that may not
    test_tensorflow   TensorFlow sessions in the sandbox; one goes on through SIGKILL of the daemon, with every row
    test_sandbox      what sessions cannot do; how standbys yield
    test_devices      which device nodes they can open

tests/logs has the journal, what collectors make of it, and lnav. Some of these run twice: with control groups as the
host mounts them, and with the unified hierarchy (v2) alone.

Not shown here, for want of the means: an NVIDIA driver that opens its nodes (they get as far as the kernel's search for
one); the order of a whole boot, with nvidia-persistenced before the service; and, on a host that has the controllers
of memory and CPU in v1, MemoryMax= and CPUWeight= in the unified hierarchy: a controller is in one hierarchy only.
"""
