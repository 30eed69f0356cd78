"""Runs a command the way a restricted container runs it, with nothing but the kernel and util-linux.

Own mount, process, IPC and host-name spaces; a root file system that cannot be written; an unprivileged user without
capabilities that cannot gain any; CPU and memory limits by cgroup. The network is the machine's own.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

USER = 65532
MOUNTS = Path("/mnt")  # where a sandbox over this machine's own root shows its extra folders


@dataclass(frozen=True)
class Sandbox:
    """``root`` becomes ``/``, read-only; ``folders`` (inside, outside) are mounted read-only, ``cpus`` and ``memory``
    (bytes) are limits where the cgroup file system may be written. Without ``shell`` nothing in it can start one."""

    root: Path
    folders: Mapping[str, Path] = field(default_factory=dict)
    cpus: int = 1
    memory: int = 4 << 30
    shell: bool = True

    def script(self, command: Sequence[str], environment: Mapping[str, str], groups: Sequence[Path]) -> str:
        root = "/run/sandbox-root"
        lines = ["set -eu", "mount --make-rprivate /", "mount -t tmpfs -o mode=755 tmpfs /run"]
        lines += [f"echo 0 >{group}/cgroup.procs" for group in groups]
        lines += [f"mkdir {root}", f"mount --rbind {self.root} {root}", f"mount -t proc proc {root}/proc"]
        lines += [f"mount -t tmpfs -o mode=1777,size=16m tmpfs {root}/tmp"]
        if self.root != Path("/"):
            lines += [f"mount --rbind /dev {root}/dev", f"mount -t tmpfs -o mode=755 tmpfs {root}/sys"]
            lines += [f"mkdir -p {root}/sys/fs/cgroup"]
        else:
            lines += [f"mount -t tmpfs -o mode=755 tmpfs {root}{MOUNTS}"]
            lines += [line for path in (Path(sys.base_prefix), Path(sys.prefix)) for line in _exposed(path, root)]
        lines += [f"mount -t tmpfs -o mode=755 tmpfs {root}/sys/fs/cgroup"]
        lines += [f"mkdir -p {root}/sys/fs/cgroup/cpu"]
        for group in groups:  # the limit as the process sees it in its own group: version 2, then 1
            lines += [f"cp {group}/cpu.max {root}/sys/fs/cgroup/ 2>/dev/null || true"]
            lines += [f"cp {group}/cpu.cfs_*_us {root}/sys/fs/cgroup/cpu/ 2>/dev/null || true"]
        for inside, outside in self.folders.items():
            target = f"{root}{inside}"
            lines += [f"mkdir -p {target}", f"mount --bind {outside} {target}", f"mount -o remount,bind,ro {target}"]
        if not self.shell:  # a device in its place cannot be executed, whoever asks
            lines += [f"mount --bind /dev/null {root}{path}" for path in shells(self.root)]
        lines += [f"mount -o remount,bind,ro {root}"]
        if self.root == Path("/"):
            lines += [f"mount -o remount,bind,ro {root}{MOUNTS}"]
        variables = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
        limits = f"--reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
        lines += [f"exec chroot {root} setpriv {limits} env -i {variables} {shlex.join(command)}"]
        return "\n".join(lines) + "\n"

    @contextmanager
    def run(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Process]:
        """Starts ``command`` as process 1; ends it, if it still runs, with SIGKILL."""
        with _cgroups(self.cpus, self.memory) as groups, log.open("w") as output:
            spaces = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork"]
            script = self.script(command, environment, groups)
            outer = subprocess.Popen([*spaces, "sh", "-c", script], stdout=output, stderr=subprocess.STDOUT)
            process = Process(outer, log)
            try:
                yield process
            finally:
                process.kill()


@dataclass(frozen=True)
class Process:
    """A running sandbox: ``outer`` waits for process 1 and ends with its status."""

    outer: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Process 1 of the sandbox, by the number it has outside."""
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        return int(children[0])

    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends process 1, and with it everything in the sandbox; its death ends ``outer``."""
        while self.outer.poll() is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except (IndexError, OSError):  # not started yet, or gone in between
                time.sleep(0.05)
            try:
                self.outer.wait(5)
            except subprocess.TimeoutExpired:
                continue


def shells(root: Path) -> list[Path]:
    """Every shell below ``root``, by the place of its file: links are followed, within ``root``."""
    folders = [root / "bin", root / "usr/bin", root / "usr/local/bin"]
    names = ("sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "rbash", "tcsh", "zsh")
    found = set()
    for path in (folder / name for folder in folders for name in names):
        for _ in range(10):
            if path.is_symlink():
                target = path.readlink()
                path = root / target.relative_to("/") if target.is_absolute() else path.parent / target
        if path.is_file():
            found.add(Path("/") / path.resolve().relative_to(root.resolve()))
    return sorted(found)


def _exposed(path: Path, root: str) -> list[str]:
    """Makes ``path`` reachable for the sandbox's user below a closed folder such as /root, or its own empty /tmp."""
    hidden = (folder for folder in reversed(path.parents) if folder == Path("/tmp") or not folder.stat().st_mode & 1)
    closed = next(hidden, None)
    if closed is None:
        return []
    return [
        f"mountpoint -q {root}{closed} || mount -t tmpfs -o mode=755 tmpfs {root}{closed}",
        f"mkdir -p {root}{path}",
        f"mount --rbind {path} {root}{path}",
    ]


@contextmanager
def _cgroups(cpus: int, memory: int) -> Iterator[list[Path]]:
    """A group with both limits (cgroup 2), a group for each (cgroup 1), or none where groups cannot be made."""
    base = Path("/sys/fs/cgroup")
    name = f"sentence-serving-test-{os.getpid()}-{secrets.token_hex(4)}"
    if (base / "cgroup.controllers").exists():
        wanted = {base / name: {"cpu.max": f"{cpus * 100000} 100000", "memory.max": str(memory)}}
    else:
        wanted = {
            base / "cpu" / name: {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": str(cpus * 100000)},
            base / "memory" / name: {"memory.limit_in_bytes": str(memory)},
        }
    groups = []
    try:
        for group, limits in wanted.items():
            try:
                group.mkdir()
                groups.append(group)
                for file, value in limits.items():
                    (group / file).write_text(value)
            except OSError:
                if group in groups:
                    groups.remove(group)
                    group.rmdir()
        yield groups
    finally:
        for group in groups:
            _remove(group)


def _remove(group: Path) -> None:
    for _ in range(50):  # a process that was killed leaves its group a moment later
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.1)
