"""fail2ban as Debian ships it, with nothing but the name of its iptables command replaced: bans and unbans a host."""
from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import services
from firewall import BIN, Firewall
from pyfw.lab import CLIENT, SERVER, Lab, wait_until

PAGE = f"http://{SERVER.ipv4}:8080/{services.FILE_NAME}"
PAGE6 = f"http://[{SERVER.ipv6}]:8080/{services.FILE_NAME}"
JAIL = """
[DEFAULT]
banaction = iptables-multiport
banaction_allports = iptables-allports
action = %(banaction)s[name=%(__name__)s, port="%(port)s", protocol="%(protocol)s"]

[page]
enabled = true
filter = page
port = 8080
logpath = LOG
backend = polling
usedns = no
ignoreself = false
maxretry = 3
findtime = 600
bantime = 600
"""


class Jail:
    """fail2ban on the server's host, watching a log that the test writes."""

    def __init__(self, lab: Lab, firewall: Firewall, directory: Path) -> None:
        self.lab = lab
        self.firewall = firewall
        self.directory = directory
        self.log = directory / "page.log"

    def configure(self) -> None:
        shutil.copytree("/etc/fail2ban", self.directory, dirs_exist_ok=True)
        shutil.rmtree(self.directory / "jail.d")
        action = self.directory / "action.d" / "iptables.conf"
        action.write_text(action.read_text().replace("iptables = iptables <lockingopt>",
                                                     f"iptables = {BIN}/pyfw-iptables <lockingopt>")
                          .replace("iptables = ip6tables <lockingopt>", f"iptables = {BIN}/pyfw-ip6tables <lockingopt>"))
        (self.directory / "filter.d" / "page.conf").write_text("[Definition]\nfailregex = ^ login from <HOST> failed$\n")
        (self.directory / "jail.local").write_text(JAIL.replace("LOG", str(self.log)))
        (self.directory / "fail2ban.local").write_text(
            f"[Definition]\nlogtarget = {self.directory}/fail2ban.log\ndbfile = None\nallowipv6 = true\n")
        self.log.touch()

    def command(self, *words: str) -> list[str]:
        return [*words[:1], "-c", str(self.directory), "-s", str(self.directory / "sock"),
                "-p", str(self.directory / "pid"), *words[1:]]

    def start(self) -> None:
        self.configure()
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYFW_SOCKET": str(self.firewall.socket)}
        self.process = self.lab.start("server", self.command("fail2ban-server", "-xf", "start"), env=environment)
        wait_until(lambda: self.ask("status", "page") is not None, "fail2ban to start", 15)

    def ask(self, *words: str) -> str | None:
        result = self.lab.run("server", self.command("fail2ban-client", *words))
        return result.stdout if result.returncode == 0 else None

    def fail_login(self, address: str, times: int) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with self.log.open("a") as log:
            log.writelines(f"{stamp} login from {address} failed\n" for _ in range(times))


@pytest.fixture
def jail(lab: Lab, guard: Callable[..., Firewall], shared_directory: Path, tmp_path: Path) -> Iterator[Jail]:
    services.start_http(lab, "server", shared_directory, 8080)
    firewall = guard(role="server", INPUT=[
        "-p ipv6-icmp -j ACCEPT", "-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-p tcp --dport 8080 -j ACCEPT"])
    jail = Jail(lab, firewall, tmp_path / "fail2ban")
    jail.start()
    yield jail
    jail.ask("stop")
    jail.process.wait(10)


def fetches(lab: Lab, page: str) -> bool:
    return lab.run("client", ["curl", "-sS", "-m", "1", page]).stdout == services.FILE_TEXT


@pytest.mark.parametrize(("page", "address"), [(PAGE, CLIENT.ipv4), (PAGE6, CLIENT.ipv6)], ids=["IPv4", "IPv6"])
def test_bans_and_unbans(lab: Lab, jail: Jail, page: str, address: str) -> None:
    jail.fail_login(address, times=2)
    jail.fail_login("192.0.2.77", times=3)
    wait_until(lambda: "192.0.2.77" in (jail.ask("status", "page") or ""), "another host's ban", 15)
    assert fetches(lab, page)               # control: two failures, and another's ban, change nothing
    jail.fail_login(address, times=1)
    wait_until(lambda: not fetches(lab, page), "the ban", 15)
    assert any(f"-s {address}/" in rule and "-j REJECT" in rule for rule in rules(jail, address))
    assert jail.ask("set", "page", "unbanip", address) is not None
    assert fetches(lab, page)
    assert jail.ask("set", "page", "unbanip", "192.0.2.77") is not None
    assert [rule for rule in rules(jail) if "REJECT" in rule] == []


def test_stopping_takes_its_rules_away(jail: Jail) -> None:
    for address in ("192.0.2.77", "2001:db8::77"):
        jail.fail_login(address, times=3)
    wait_until(lambda: "2001:db8::77" in (jail.ask("status", "page") or ""), "the other family's ban", 15)
    wait_until(lambda: any("f2b-page" in rule for rule in rules(jail)), "the jail's chain", 15)
    assert jail.ask("stop") is not None
    wait_until(lambda: not any("f2b" in rule for rule in rules(jail)), "the rules to go", 15)
    assert " ERROR " not in (jail.directory / "fail2ban.log").read_text()


def rules(jail: Jail, address: str = "") -> list[str]:
    command = BIN / ("pyfw-ip6tables" if ":" in address else "pyfw-iptables")
    result = jail.lab.run("server", [command, "-S"], env={"PYFW_SOCKET": str(jail.firewall.socket)}, check=True)
    return result.stdout.splitlines()
