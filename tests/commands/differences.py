"""Where pyfw differs from iptables on purpose: why, and cases that show it."""
from __future__ import annotations

DIFFERENCES: dict[str, tuple[str, ...]] = {
    "ip6tables of nf_tables forgets the counters that -c gives a rule; pyfw sets them, as iptables does": (
        "6:-A INPUT -c 1 2",
        r"6:R-c|*filter\n[5:6] -A INPUT -j DROP\nCOMMIT\n",
    ),
    "iptables takes -ptcp for a protocol of that name; pyfw for -p tcp, as all other options may be joined": (
        "-A INPUT -ptcp",
        "-A INPUT -mtcp -ptcp",
    ),
    "pyfw's --in is short for --in-interface, as in its YAML; to iptables it may be --insert, too": (
        "-A INPUT --in lo",
    ),
    "`-s ! 10.0.0.1` is how old scripts negate; iptables no longer reads it, pyfw does": (
        "-A INPUT -s ! 1.1.1.1",
        "-A INPUT -p tcp --dport ! 22",
    ),
    "--test says all that is wrong with a text; iptables-restore only reads it": (
        r"R-t|*raw\n:a - [0:0]\n-A PREROUTING -j b\nCOMMIT\n",
    ),
    "nf_tables has no built-in chain that a restored text did not name until it is needed, and -v says so": (
        r"R|*filter\n:INPUT ACCEPT\nCOMMIT\n ;; -v -Z",
    ),
    "-vv adds the bytecode of nf_tables, which pyfw does not have": (
        "-vv -A INPUT -p tcp --dport 22 -j ACCEPT",
    ),
    "a mask with holes is lost when iptables-save prints it; pyfw prints it": (
        "-A INPUT -m conntrack --ctorigdst 10.1.2.3/255.255.0.255",
    ),
    "nf_tables prints only the last of two matches of ports; pyfw prints the rule that there is": (
        "-A INPUT -p tcp -m tcp --dport 22 -m tcp --dport 23",
    ),
    "the version names pyfw, and the help tells of pyfw alone": (
        "-V", "--vers", "-h", "R-V|", "R-h|",
    ),
    "other tables are the kernel's": (
        "-t mangle -L",
        r"R|*mangle\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*filter\n-A INPUT -j DROP\nCOMMIT\n",
    ),
    "what pyfw does not do is refused, and never taken for done": (
        "-A INPUT -j SNAT --to 1.1.1.1",
        "-t raw -A PREROUTING -j CT",
        "-t raw -A PREROUTING -j CT --zone 5",
        "-t raw -A PREROUTING -j CT --ctevents new",
        "-t raw -A PREROUTING -j CT --timeout x",
        r"R|*filter\n-A INPUT -j NFQUEUE\n-A INPUT -m u32 --u32 \"0=0\"\nCOMMIT\n",
    ),
    "nf_tables lets a built-in chain be deleted or renamed, and with it its policy; pyfw and iptables-legacy do not": (
        "-E INPUT a",
        "-X INPUT",
    ),
    "a chain of another table's built-in name would be taken for it": (
        r"R|*filter\n:PREROUTING - [0:0]\nCOMMIT\n",
    ),
    "a loop of chains is refused when it is made; the kernel waits until a built-in chain leads to it": (
        "-N a ;; -A a -j a",
    ),
    "a rule that can never match is a mistake": (
        "-A INPUT ! -i +",
        "-A INPUT -p tcp ! --dport 0:65535",
    ),
    "names of hosts are not resolved, and what may be read as octal is not guessed": (
        "-A INPUT -s localhost",
        "-A INPUT -s 010.1.1.1",
        "-A INPUT -s 0x0a.1.1.1",
    ),
    "an interface that the kernel cannot have is refused; iptables warns": (
        '-A INPUT -i "a b"',
        '-A INPUT -i "a/b"',
    ),
    "counters are decimal numbers below 2^64; what strtoull() makes of others was never meant": (
        "-A INPUT -c 1,2,3",
        "-A INPUT -c 99999999999999999999999 1",
        "-A INPUT -c -1 2",
        "-A INPUT -c 0x10 2",
    ),
    "text on a line of a log or of a saved ruleset has no control characters, is UTF-8, and is not cut off silently": (
        '-A INPUT -j LOG --log-prefix "123456789012345678901234567890"',
        '-A INPUT -j LOG --log-prefix "a\tb"',
        r'R|*filter\n-A INPUT -m comment --comment "a\nCOMMIT\n',
        r'R|*filter\n-A INPUT -m comment --comment "\xff\xfe"\nCOMMIT\n',
        r'R|*filter\n-A INPUT -m comment --comment "x\x01y"\nCOMMIT\n',
    ),
    "words of a rule behind a command that takes none are refused, a match's, too": (
        "-L -m tcp",
    ),
    "iptables-restore -w5 is -w 5, as for iptables": (
        r"R-w5|*filter\n-A INPUT -j DROP\nCOMMIT\n",
    ),
    "a line of a restored text that is the other family's, by -4 or -6, is not read any further": (
        r"R|*filter\n-A INPUT -p nosuch -6\nCOMMIT\n",
    ),
    "a restored text that lists rules is refused": (
        r"R|*filter\n-L\nCOMMIT\n",
        r"R|*filter\n-S\nCOMMIT\n",
    ),
    "what a restored text has just made can be flushed, counted anew and renamed; nf_tables' cache does not know it yet": (
        r"R|*filter\n-A INPUT -j ACCEPT\n-F\nCOMMIT\n",
        r"R|*filter\n-Z INPUT\nCOMMIT\n",
        r"R|*filter\n:a -\n-E a c\n-A c -j DROP\nCOMMIT\n",
    ),
}
