"""A real systemd as process 1, in namespaces of its own, over the root directory of a Debian."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

# What a container manager does for systemd: file systems, a cgroup of its own, and nothing of this machine's devices.
SCRIPT = """
set -eu
cd "$0"
mount --bind . .
cd "$0"
mount -t proc proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old
mount --make-rshared / # else LoadCredential= is empty: systemd moves it into place from a namespace of its own
exec env -i container=tests PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
"""
MASKED = (
    *("systemd-remount-fs.service", "getty.target", "console-getty.service", "systemd-firstboot.service"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount"),
    *("dev-mqueue.mount", "systemd-machine-id-commit.service", "systemd-udevd.service", "systemd-sysctl.service"),
    *("systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service"),
)
STARTS_WITHIN_S = 120.0
SHUTS_DOWN = signal.SIGRTMIN + 4  # systemd(1): poweroff.target


class Booted:
    """The system, from ``with`` to its end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        hierarchy = Path("/sys/fs/cgroup/unified")
        self._cgroup = (hierarchy if hierarchy.is_dir() else hierarchy.parent) / f"ddslogd-tests-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        units = self.root / "etc/systemd/system"
        for unit in MASKED:
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")
        (self.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (self.root / "etc/fstab").write_text("")
        journal = self.root / "etc/systemd/journald.conf.d"
        journal.mkdir(parents=True, exist_ok=True)
        (journal / "tests.conf").write_text("[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n")
        self._cgroup.mkdir()
        enter = f'echo $$ > {self._cgroup}/cgroup.procs && exec "$@"'
        unshare = ("unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--net")
        self._process = subprocess.Popen(
            ["sh", "-c", enter, "sh", *unshare, "--propagation", "private", "sh", "-c", SCRIPT, str(self.root)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        if self._leader:
            os.kill(self._leader, SHUTS_DOWN)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.kill(self._leader or process.pid, signal.SIGKILL)  # process 1: all others in it go too
            process.wait()
        for directory in sorted(self._cgroup.rglob("*"), reverse=True):
            if directory.is_dir():
                directory.rmdir()
        self._cgroup.rmdir()

    def _wait_until_up(self) -> None:
        ends = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < ends:
            assert self._process is not None
            assert self._process.poll() is None, "it ended while it started"
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self._leader = int(children[0]) if children else 0
            if self._leader and self.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}:
                return
            time.sleep(0.2)
        raise AssertionError("systemd did not come up")

    def run(self, *command: str, closed_stdin: bool = False, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it."""
        clean = [f"{key}={value}" for key, value in {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environ}.items()]
        enter = ["nsenter", "--target", str(self._leader), "--all", "env", "-i", "LANG=C.UTF-8", *clean, *command]
        if closed_stdin:
            enter = ["sh", "-c", 'exec "$@" <&-', "sh", *enter]
        return subprocess.run(enter, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def until(self, *command: str, says: str) -> str:
        """Run a program again and again until it prints a text; give all that it printed."""
        ends = time.monotonic() + STARTS_WITHIN_S
        while says not in (told := self.run(*command).stdout):
            assert time.monotonic() < ends, told
            time.sleep(0.2)
        return told

    def copy(self, file: Path, target: str) -> None:
        """Copy a file into it; not below /tmp and /run, which are its own."""
        shutil.copy(file, self.root / target.lstrip("/"))
