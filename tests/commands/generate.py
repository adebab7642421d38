"""Cases at random: command lines and texts such as people and scripts write, right and wrong ones."""
from __future__ import annotations

import shlex
from random import Random

from kit.vocabulary import RULES

CHAINS = ("INPUT", "FORWARD", "OUTPUT", "FORWARD", "a", "b", "c")
ODD_CHAINS = ("", "nosuch", "a b", "ACCEPT", "x" * 28, "x" * 29, "-x", "!x")
ADDRESSES = {4: ("10.0.0.1", "10.0.0.0/8", "192.0.2.7/24", "0.0.0.0/0", "10.1", "1.1.1.1,2.2.2.2", "10.0.0.0/255.0.255.0", "1.2.3.4/33", "::1"),
             6: ("::1", "fe80::/10", "::/0", "2001:db8::1/64", "::1,::2", "::ffff:1.2.3.4", "::1/129", "10.0.0.1")}
PARTS = ("-p tcp", "-p udp", "--protocol tcp", "! -p icmp", "-p 47", "-p tcp --dport 22", "-p tcp --sport 1024:", "-p tcp --dport 80 --syn",
         "-p udp --dport domain", "-p udp ! --sport 53", "-p tcp -m tcp --tcp-flags SYN,ACK SYN", "-i eth0", "! -i lo", "-i ppp+", "--in-int eth1",
         "-m state --state NEW", "-m conntrack --ctstate RELATED,ESTABLISHED", "-m conntrack --ctst INVALID", "-m comment --comment x",
         "-m comment --comment 'a b'", "-m limit --limit 5/min", "-m limit --limit-b 7", "-m mark --mark 0x1/0xf", "-f", "-m nosuch",
         "--nosuch", "stray", "-p", "-p tcp -m multiport --dport 1,2,3", "-p tcp -m multiport --ports 1:3,9", "-p tcp --dport 99999",
         "-m addrtype --dst-type LOCAL", "-m pkttype", "-m length --length 5:10", "-n", "-w", "-w 3", "-x",
         "--line-numbers", "-W 5", "-M /bin/true")
TARGETS = ("-j ACCEPT", "-j DROP", "-j RETURN", "-j REJECT", "--jump DROP", "--ju ACCEPT", "-g a", "-j a", "-j b", "-j c", "-j nosuch",
           "-j LOG --log-prefix 'x: '", "-j LOG --log-lev info", "-p tcp -j REJECT --reject-with tcp-reset", "-j MARK --set-mark 5", "", "-j",
           "-j INPUT", "-j ACCEPT -j DROP", "-j REJECT --reject-with icmp-host-unreachable", "-j NOTRACK", "-j CT --notrack")
OPTIONS = ("", "", "", "-n", "-c", "-n -c", "-T filter", "-T raw", "-v", "-w 5")


def case(seed: int) -> str:
    random = Random(seed)
    family = random.choice((4, 4, 6))
    steps = [restored(random, family) if random.random() < 0.25 else command(random, family) for _ in range(random.randint(2, 6))]
    return " ;; ".join(f"6:{step}" if family == 6 else step for step in steps)


def chain(random: Random) -> str:
    return shlex.quote(random.choice(ODD_CHAINS)) if random.random() < 0.04 else random.choice(CHAINS)


def own(random: Random) -> str:
    return random.choice(("a", "b", "c", "nosuch"))


def number(random: Random) -> str:
    return random.choice(("1", "1", "1", "2", "3", "0", "9", "01", "x", "1x", "99999999999"))


def rule(random: Random, family: int) -> str:
    if family == 4 and random.random() < 0.25:
        return random.choice(RULES[4, "filter", "FORWARD"])
    parts = [random.choice(PARTS) for _ in range(random.choice((0, 0, 1, 1, 1, 2)))]
    if random.random() < 0.5:
        parts.append(f"{random.choice(('', '', '! '))}{random.choice(('-s', '-d', '--source', '--dst', '--dest'))} {random.choice(ADDRESSES[family])}")
    parts.append(random.choice(TARGETS))
    if family == 4 and random.random() < 0.1:
        parts.append(random.choice(("-c 5 6", "-c 7,8", "-c 9", "-c 1 2 -c 3 4")))
    random.shuffle(parts)
    return " ".join(filter(None, parts))


def command(random: Random, family: int, in_text: bool = False) -> str:
    name, other = chain(random), chain(random)
    lines = [f"-A {name} {rule(random, family)}"] * 6 + [
        f"-I {name} {rule(random, family)}", f"-I {name} {number(random)} {rule(random, family)}", f"--append {name} {rule(random, family)}",
        f"-N {name}", f"-N {random.choice('abc')}", f"-N {random.choice('abc')}", f"-X {own(random)}", f"-F {name}", f"-P {name} DROP",
        f"-P {name} {random.choice(('ACCEPT', 'DROP', 'RETURN', 'nosuch', ''))}", f"-D {name} {number(random)}",
        f"-D {name} {rule(random, family)}"]
    if not in_text:
        lines += [
            "-X", "-F", "-Z", f"-Z {name}", f"-Z {name} {number(random)}", f"-E {own(random)} {other}", f"-R {name} {number(random)} {rule(random, family)}",
            f"-C {name} {rule(random, family)}", "-S", f"-S {name}", f"-S {name} {number(random)}", "-L", "-nvL", f"-L {name} -n",
            f"-L {name} {number(random)}", "-L -n -v -x --line-numbers", f"-L -Z {random.choice(('', '-v'))}", f"--new {name}", "--list-rules",
            f"-A {name}", "-A", "-S -v", f"-P {name}", f"-E {name}", "-t raw -S", f"-t raw -A PREROUTING {rule(random, family)}",
            f"-t raw -A OUTPUT {rule(random, family)}", "-t nosuch -S", "--zero", f"-F {name} -v", "-A INPUT -L", "--del INPUT 1", "-n -S"]
    line = random.choice(lines).strip()
    if in_text or "-v" in line or line.startswith("-nv") or line.startswith(("-Z", "-F", "--zero")) or random.random() < 0.8:
        return line
    return f"{random.choice(('-v', '-v', '-w', '-w 2', '-n', *(('-c 1 2',) if family == 4 else ())))} {line}"


def restored(random: Random, family: int) -> str:
    text = []
    for table, chains in random.sample((("filter", ("INPUT", "FORWARD", "OUTPUT")), ("raw", ("PREROUTING", "OUTPUT"))), random.choice((1, 1, 2))):
        text.append(f"*{table}")
        for name in chains:
            if random.random() < 0.5:
                text.append(f":{name} {random.choice(('ACCEPT', 'DROP', 'DROP', '-'))} {random.choice(('[0:0]', '[3:4]'))}")
        text += [f":{name} - [0:0]" for name in "abc" if random.random() < 0.5]
        text += [line_of_text(random, family, table, chains) for _ in range(random.randint(0, 5))]
        text.append("COMMIT")
    if random.random() < 0.1:
        text.insert(random.randrange(len(text) + 1), random.choice(("", "# x", "COMMIT", "*filter", ":a - [0:0]", "nonsense", "-6 -F a", ":INPUT")))
    escaped = "\\n".join(text).replace('"', '\\"').replace("'", '"')
    return f"R{random.choice(OPTIONS) if family == 4 else random.choice(OPTIONS).replace('-c', '')}|{escaped}\\n"


def line_of_text(random: Random, family: int, table: str, chains: tuple[str, ...]) -> str:
    if table == "raw":
        line = f"-A {random.choice(chains)} {rule(random, family)}"
    else:
        line = command(random, family, in_text=True)
    if random.random() < 0.1:
        line = f"{random.choice(('-4', '-6'))} {line}"
    return f"[5:6] {line}" if line.startswith("-A") and random.random() < 0.3 else line
