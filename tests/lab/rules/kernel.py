"""The kernel's own iptables as witness: a namespace with a TUN device into which packets are written.

    test ── packet bytes ──> tun0 ──> raw PREROUTING of the namespace (nothing is forwarded or answered)
"""
from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import threading
from pathlib import Path

from pyroute2 import netns

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
DEVICE = "tun0"


class Kernel:
    """A namespace of its own, as a context manager.  `family` is 4 or 6 throughout."""

    def __init__(self) -> None:
        self.name = f"pfr-{os.getpid()}"
        self.tun = -1

    def __enter__(self) -> Kernel:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip", "tuntap", "add", DEVICE, "mode", "tun")
        self.attach()
        self.run("ip", "address", "add", "10.99.0.1/24", "dev", DEVICE)
        self.run("ip", "link", "set", DEVICE, "up")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.tun)
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def attach(self) -> None:
        """Open the device; a thread enters the namespace for it, so that the tests stay outside."""
        def enter() -> None:
            netns.setns(self.name)
            self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()

    def run(self, *command: str, text: str | None = None) -> str:
        done = subprocess.run(["ip", "netns", "exec", self.name, *command], input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def send(self, packet: bytes) -> None:
        """Into the device; the kernel has judged it when this returns."""
        os.write(self.tun, packet)

    def restore(self, family: int, text: str, variant: str = "nft") -> None:
        self.run(f"{program(family)}-{variant}-restore", text=text)

    def save(self, family: int, variant: str = "nft", counters: bool = False) -> str:
        """iptables-save, without its dated comments."""
        printed = self.run(f"{program(family)}-{variant}-save", *(["-c"] if counters else []))
        return "".join(f"{line}\n" for line in printed.splitlines() if not line.startswith("#"))

    def rule_counters(self, family: int, variant: str) -> list[tuple[int, int]]:
        """(packets, bytes) of every rule, in the order they are printed."""
        return [(int(packets), int(size)) for packets, size in re.findall(
            r"^\[(\d+):(\d+)\] -A", self.save(family, variant, counters=True), re.MULTILINE)]


def program(family: int) -> str:
    return "iptables" if family == 4 else "ip6tables"


class KernelLog:
    """What the kernel logs from here on in any namespace, as a context manager; the setting is put back at the end.

    The setting is the machine's: other processes that want it wait.
    """

    SETTING = Path("/proc/sys/net/netfilter/nf_log_all_netns")
    LOCK = Path("/run/pyfw-test-kernel-log.lock")

    def __enter__(self) -> KernelLog:
        self.lock = self.LOCK.open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.before = self.SETTING.read_text()
        self.SETTING.write_text("1")
        self.messages = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.messages, 0, os.SEEK_END)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.messages)
        self.SETTING.write_text(self.before)
        self.lock.close()

    def lines(self, prefix: str) -> list[str]:
        """New messages that begin with `prefix`, without it."""
        found = []
        while True:
            try:
                message = os.read(self.messages, 8192).decode().split(";", 1)[1].split("\n", 1)[0]
            except BlockingIOError:
                return found
            if message.startswith(prefix):
                found.append(message.removeprefix(prefix))


NOW_NS = 10 ** 9


def sets(text: str) -> dict[str, list[str]]:
    """Set -> its lines in no particular order, without what differs from run to run: hash sizes, secrets, seconds that pass."""
    text = re.sub(r" hashsize \d+| initval \w+", "", text)
    text = re.sub(r"(add .*) timeout (8\d\d|900)\b", r"\1 timeout 900", text)
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        found.setdefault(line.split(" ")[1], []).append(line)
    return {name: sorted(lines) for name, lines in found.items()}
