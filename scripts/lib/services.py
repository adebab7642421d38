"""Real servers for a host of the lab: DNS, HTTP, ssh, FTP.

Each function starts one and returns when it listens; the lab ends it.  Files it needs are made
under `directory`, which the caller removes.
"""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pyfw.lab import Lab

DNS_NAME = "www.example.net"
FILE_NAME = "hello.txt"
FILE_TEXT = "Hello from the other side of the gateway.\n"

# Dual-stack: the standard library's own server listens on one family only.
HTTP_SERVER = """
import functools, http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])
Server(("::", int(sys.argv[1])), handler).serve_forever()
"""

VSFTPD_CONFIG = """
background=NO
listen_ipv6=YES
anonymous_enable=YES
local_enable=NO
write_enable=NO
anon_root={root}
no_anon_password=YES
connect_from_port_20=YES
pasv_enable=YES
port_enable=YES
secure_chroot_dir={empty}
listen_port={port}
seccomp_sandbox=NO
xferlog_enable=NO
"""

SSHD_CONFIG = """
HostKey {key}
PidFile none
UsePAM no
"""


def start_dns(lab: Lab, role: str, address: str) -> subprocess.Popen:
    """dnsmasq that knows one name, DNS_NAME, and answers it with `address`."""
    process = _start(lab, role, [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv",
        "--pid-file=", "--user=root", "--cache-size=0", f"--address=/{DNS_NAME}/{address}"])
    lab.wait_listening(role, 53, "udp")
    lab.wait_listening(role, 53, "tcp")
    return process


def start_http(lab: Lab, role: str, directory: Path, port: int = 80) -> subprocess.Popen:
    """Serves FILE_NAME, over IPv4 and IPv6."""
    process = _start(lab, role, [sys.executable, "-c", HTTP_SERVER, str(port), _document_root(directory)])
    lab.wait_listening(role, port)
    return process


def start_ssh(lab: Lab, role: str, directory: Path) -> subprocess.Popen:
    key = directory / "host_key"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key],
                       check=True, stdin=subprocess.DEVNULL)
    config = directory / "sshd.conf"
    config.write_text(SSHD_CONFIG.format(key=key))
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)     # sshd's privilege separation insists
    process = _start(lab, role, ["/usr/sbin/sshd", "-D", "-f", config])
    lab.wait_listening(role, 22)
    return process


def start_ftp(lab: Lab, role: str, directory: Path, port: int = 21) -> subprocess.Popen:
    """vsftpd, anonymous, serving FILE_NAME; active and passive, over IPv4 and IPv6."""
    empty = directory / "vsftpd-empty"
    empty.mkdir(exist_ok=True)
    config = directory / f"vsftpd-{port}.conf"
    config.write_text(VSFTPD_CONFIG.format(root=_document_root(directory), empty=empty, port=port).lstrip())
    process = _start(lab, role, ["vsftpd", config])
    lab.wait_listening(role, port)
    return process


def _start(lab: Lab, role: str, argv: list) -> subprocess.Popen:
    return lab.start(role, argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _document_root(directory: Path) -> Path:
    """A directory with FILE_NAME that anyone, but nobody else than root may write (vsftpd insists)."""
    root = directory / "public"
    root.mkdir(mode=0o755, exist_ok=True)
    (root / FILE_NAME).write_text(FILE_TEXT)
    for path in (directory, root):
        path.chmod(0o755)
    return root
