"""The unit's sandbox with sessions in it: what they cannot do, and how standbys yield."""

from __future__ import annotations

import json

from tests.systemd.machine import OUT, OWN, Machine, stand_in

LONG = ("--item-ms", "5")

# Each is tried by a session; none may succeed. What it did goes to its output.
FORBIDDEN = {
    "write to /etc": "touch /etc/batond/by-a-session",
    "write its configuration": "echo >>/etc/batond/batond.toml",
    "write to its own programs": "touch /opt/batond/by-a-session",
    "write to /usr": "touch /usr/by-a-session",
    "write beside its own folders": "touch /var/lib/by-a-session",
    "write to a folder that was not opened": "touch /srv/closed/by-a-session",
    "look into homes": "ls /root",
    "see the host's temporary files": "test -e /tmp/of-the-host",
    "see other users' processes": "test -e /proc/1/stat",
    "become root": "su -c true",
    "change kernel settings": "echo 1 >/proc/sys/vm/drop_caches",
    "read the kernel's log": "dmesg",
    "mount": "mount -t tmpfs none /mnt",
    "make namespaces": "unshare --user true",
    "reach the network": f"{OWN} -c 'import socket; socket.socket(socket.AF_INET)'",
    "make a device": "mknod /var/lib/batond/device c 1 3",
    "set the clock": "date -s 2000-01-01",
    "make a program with its owner's rights": "cp /bin/true /var/lib/batond/x && chmod u+s /var/lib/batond/x",
    "write control groups": "mkdir /sys/fs/cgroup/systemd/by-a-session || mkdir /sys/fs/cgroup/by-a-session",
}


def test_a_session_can_do_no_more_than_its_work(service: Machine) -> None:
    service.run("sh", "-c", "mkdir -p /srv/closed && chmod 777 /srv/closed && touch /tmp/of-the-host")
    tried = "\n".join(
        f'if ({command}) >/dev/null 2>&1; then echo "can {what}"; else echo "cannot {what}"; fi'
        for what, command in FORBIDDEN.items()
    )
    script = f"{tried}\nid -un\ngrep -E 'NoNewPrivs|CapEff' /proc/self/status\n"
    service.write("/opt/tests/forbidden.sh", script)
    service.run("chmod", "-R", "a+rX", "/opt/tests")
    command = json.dumps(["sh", "-c", f"sh /opt/tests/forbidden.sh >{OUT}/said"])
    service.submit(f'[[session]]\nname = "a"\nrun = {command}\n')
    service.event("session.finished", session="a")
    said = service.read(f"{OUT}/said").splitlines()
    assert said[: len(FORBIDDEN)] == [f"cannot {what}" for what in FORBIDDEN]
    assert said[len(FORBIDDEN) :] == ["batond", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]


def test_its_folders_are_its_own_and_outlive_it(service: Machine) -> None:
    service.submit(stand_in("a"))
    service.event("session.finished", session="a")
    for folder, file in (
        ("/var/lib/batond", "batond.db"),
        ("/var/log/batond", "a.log"),
        ("/var/cache/batond", "tmp"),
    ):
        assert service.run("stat", "-c", "%U:%G %a", folder) == "batond:batond 750\n"
        service.run("test", "-e", f"{folder}/{file}")
    service.systemctl("stop", "batond.service")
    service.systemctl("start", "batond.service")
    assert [row["name"] for row in service.ctl("list", "--all")["sessions"]] == ["a"]


def raises_limits(service: Machine) -> bool:
    """Whether systemd could give the daemon its LimitNICE=."""
    limits = service.read(f"/proc/{service.main_pid()}/limits")
    (line,) = [line for line in limits.splitlines() if line.startswith("Max nice priority")]
    tried = service.run("sh", "-c", "prlimit --nice=20:20 true && echo yes || true").strip() == "yes"
    assert (line.split()[-2:] == ["20", "20"]) is tried, line
    return tried


def test_a_standby_yields_the_cpu_and_gets_it_back(service: Machine) -> None:
    """In a service with a share of its own the kernel asks for no autogroup; the unit's LimitNICE= opens the other way.

    Where the host cannot give that limit (a container without CAP_SYS_RESOURCE) there is no way back, and so none down.
    """
    lowered = "SCHED_IDLE" if raises_limits(service) else "SCHED_OTHER"
    service.drop_in("60-test", "[Service]\nCPUWeight=50\n")
    service.systemctl("restart", "batond.service")
    service.submit(stand_in("a", *LONG, "--unknown-total", items=1_000_000))
    service.event("session.started", session="a")
    service.submit(stand_in("b", *LONG, items=1_000_000))
    service.event("standby.ready", session="b")

    def policy(name: str) -> str:
        pid = service.run("pgrep", "-u", "batond", "-f", f"fake_worker.py .*/{name}.rows").split()[-1]
        return service.run("chrt", "-p", pid).splitlines()[0].rpartition(" ")[2]

    assert policy("a") == "SCHED_OTHER"
    service.until(lambda: policy("b") == lowered, "the standby's low priority")
    service.ctl("cancel", "a")
    service.event("session.started", session="b")
    service.until(lambda: policy("b") == "SCHED_OTHER", "the way back")
    service.ctl("cancel", "b")
    service.event("session.cancelled", session="b")


def test_the_doctor_finds_the_service_well(service: Machine) -> None:
    """Asked by root it looks at what is the service's."""
    found = {check["name"]: check for check in service.ctl("doctor")["checks"]}
    assert [name for name, check in found.items() if check["state"] == "fail"] == []
    assert found["systemd"]["text"] == "batond.service is active: cpu: Idle; 0 queued"
    assert found["socket"]["text"].endswith("answers at /run/batond/control.sock")
    assert found["config"]["text"] == "/etc/batond/batond.toml"
    assert found["state_dir"]["text"].startswith("/var/lib/batond, ")
    service.systemctl("kill", "-s", "KILL", "--kill-who=all", "batond.service")
    service.drop_in("60-test", "[Service]\nExecStart=\nExecStart=/bin/false\nRestart=no\n")
    service.systemctl("restart", "batond.service", status=1)
    service.systemctl("stop", "batond.socket", "batond.service", status=None)
    said = service.run("batonctl", "doctor", status=1)
    assert "fail  systemd      batond.service is failed (exit-code); see `journalctl -u batond`" in said
