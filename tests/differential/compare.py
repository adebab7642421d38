"""Where the kernel and pyfw differ, told so that a person can see who is right."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from differential.engine_side import EngineEvidence, Judged
from kit.packed_packets import describe, flow
from kit.witness import Evidence, Opinion, Sent

TIMEOUT_TOLERANCE_S = 2         # the kernel counts in jiffies, and the list took a moment to read
STORY_PACKETS = 40              # the last packets of a flow that a story tells

_LINE = re.compile(r"(?P<before>\S+ +\d+ \S+ +\d+) (?P<seconds>\d+) (?P<rest>.*)")
_EXPECTATION = re.compile(r"(?P<seconds>\d+) (?P<rest>.*)")
_TUPLE = re.compile(r"src=\S+ dst=\S+ (?:sport=\d+ dport=\d+ |type=\d+ code=\d+ id=\d+ |srckey=\S+ dstkey=\S+ )?")
_NOT_COMPARED = re.compile(r" (?:zone|use)=\d+")
_LOGGER = re.compile(r"nf_ct_proto_\d+: (.*)")       # tracking speaks; helpers have their own words
_OUTER_IPV6 = re.compile(r"outer daddr \S*:\S* != inner \S*:\S*")


@dataclass(frozen=True, slots=True)
class Difference:
    """One disagreement.  `what`: datagram, state, direction, verdict, reason (of packet number `index`), table
    or expectation (`index` None; kernel and engine are the lines, empty where there is none)."""

    what: str
    kernel: str
    engine: str
    index: int | None = None

    def __str__(self) -> str:
        where = f"packet {self.index}" if self.index is not None else "at the end"
        return f"{where}: {self.what}: kernel {self.kernel or 'nothing'!r}, pyfw {self.engine or 'nothing'!r}"


def differences(kernel: Evidence, engine: EngineEvidence) -> Iterable[Difference]:
    """Packet by packet, then the tables; what was first comes first."""
    for index, (seen, judged, whole) in enumerate(zip(kernel.opinions, engine.opinions, engine.datagrams, strict=True)):
        if seen.whole != whole:
            yield Difference("datagram", (seen.whole or b"").hex(), (whole or b"").hex(), index)
        if judged is not None:
            yield from _of_packet(index, seen, judged)
    yield from _of_lines("table", kernel.table, engine.table, _split_connection)
    yield from _of_lines("expectation", kernel.expectations, engine.expectations, _split_expectation)


def _of_packet(index: int, seen: Opinion, judged: Judged) -> Iterable[Difference]:
    if seen.state != judged.state:
        yield Difference("state", str(seen.state), judged.state, index)
    elif seen.direction != judged.direction:
        yield Difference("direction", str(seen.direction), str(judged.direction), index)
    if seen.forwarded and seen.out != judged.accepted and not _is_fragmented_again(seen):
        yield Difference("verdict", *("out" if passed else "dropped" for passed in (seen.out, judged.accepted)), index)
    said = _said(seen)
    if said and said != judged.reason:
        yield Difference("reason", said, judged.reason, index)


def _is_fragmented_again(seen: Opinion) -> bool:
    """Reassembled IPv6 leaves in fragments, if the kernel finds its way through the extension headers; else it is dropped."""
    return seen.whole is not None and seen.whole[0] >> 4 == 6


def _said(seen: Opinion) -> str:
    """The kernel's reason as pyfw is to give it; "" if it gave none.

    The first line is why, others are consequences.  Where a helper dropped the packet its words count, and those are
    each helper's own.  A reason of pyfw's carries three numbers: two IPv6 addresses do not fit.
    """
    if seen.forwarded and not seen.out:
        return ""
    said = next(filter(None, map(_LOGGER.match, seen.reasons)), None)
    return _OUTER_IPV6.sub("outer daddr != inner saddr", said[1]) if said else ""


def _split_connection(line: str) -> tuple[str, int, str]:
    """(identity, seconds left, all else) of a line of /proc/net/nf_conntrack."""
    parts = _LINE.fullmatch(line)
    if parts is None:
        raise ValueError(f"not a line of nf_conntrack: {line!r}")
    identity = _TUPLE.search(line)
    return f"{parts['before']} {identity[0] if identity else ''}", int(parts["seconds"]), _NOT_COMPARED.sub("", parts["rest"])


def _split_expectation(line: str) -> tuple[str, int, str]:
    parts = _EXPECTATION.fullmatch(line)
    if parts is None:
        raise ValueError(f"not a line of nf_conntrack_expect: {line!r}")
    return parts["rest"], int(parts["seconds"]), ""


def table_differences(kernel: Sequence[str], engine: Sequence[str]) -> list[Difference]:
    """Two tables in nf_conntrack's format, the kernel's and pyfw's."""
    return list(_of_lines("table", kernel, engine, _split_connection))


def _of_lines(what: str, kernel: Sequence[str], engine: Sequence[str], split) -> Iterable[Difference]:
    """Lines that only one has, unless they are about to go; lines that differ."""
    ours = {parts[0]: (line, parts) for line in engine for parts in (split(line),)}
    for line in kernel:
        identity, seconds, rest = split(line)
        our_line, (_, our_seconds, our_rest) = ours.pop(identity, ("", ("", 0, rest)))
        if rest != our_rest or abs(seconds - our_seconds) > TIMEOUT_TOLERANCE_S:
            yield Difference(what, line, our_line)
    for line, (_, our_seconds, _) in ours.values():
        if our_seconds > TIMEOUT_TOLERANCE_S:
            yield Difference(what, "", line)


# -- the story -------------------------------------------------------------------------------------

def story(difference: Difference, packets: Sequence[Sent], kernel: Evidence, engine: EngineEvidence) -> str:
    """The packets of the flow so far with both opinions, and the disagreement at the end."""
    if difference.index is not None:
        upto = difference.index + 1
        about = flow(kernel.opinions[difference.index].whole or packets[difference.index].data)
        chosen = [index for index in range(upto) if _concerns(packets[index], kernel.opinions[index], about)]
    else:
        hosts = set(re.findall(r"(?:src|dst)=(\S+)", difference.kernel or difference.engine))
        ports = set(re.findall(r"(?:sport|dport)=(\d+)", difference.kernel or difference.engine))
        chosen = [index for index, packet in enumerate(packets) if _mentions(packet.data, hosts, ports)]
    lines = [str(difference), ""]
    if len(chosen) > STORY_PACKETS:
        lines.append(f"  ({len(chosen) - STORY_PACKETS} earlier packets of this flow)")
    for index in chosen[-STORY_PACKETS:]:
        lines += _tell(index, packets[index], kernel.opinions[index], engine.opinions[index],
                       kernel.opinions[0].time_ns)
    return "\n".join(lines)


def _concerns(packet: Sent, seen: Opinion, about: tuple) -> bool:
    return flow(seen.whole or packet.data) == about


def _mentions(data: bytes, hosts: set[str], ports: set[str]) -> bool:
    key = flow(data)
    if len(key) < 2 or not isinstance(key[1], frozenset):
        return False
    ends = [end if isinstance(end, tuple) else (end, None) for end in key[1]]
    return all(_full(host) in hosts and (port is None or str(int.from_bytes(port, "big")) in ports) for host, port in ends)


def _full(host: bytes) -> str:
    """An address as /proc writes it."""
    if len(host) == 4:
        return ".".join(map(str, host))
    return ":".join(f"{int.from_bytes(host[at:at + 2], 'big'):04x}" for at in range(0, 16, 2))


def _tell(index: int, packet: Sent, seen: Opinion, judged: Judged | None, start_ns: int) -> Iterable[str]:
    yield f"  {index:6} {(seen.time_ns - start_ns) / 1e9:9.4f}s {'><'[packet.side]} {describe(packet.data)}"
    kernel = f"{seen.state or 'not tracked'} {seen.direction or ''}".strip()
    if seen.forwarded and not seen.out:
        kernel += " dropped"
    engine = "not asked" if judged is None else f"{judged.state} {judged.direction or ''}".strip()
    if judged is not None and not judged.accepted:
        engine += " dropped"
    reasons = "; ".join(seen.reasons)
    yield f"{'':20} kernel: {kernel}{'  ' + reasons if reasons else ''}"
    reason = judged.reason if judged is not None else ""
    if (kernel, reasons) != (engine, reason):
        yield f"{'':20} pyfw:   {engine}{'  ' + reason if reason else ''}"


def first(found: Iterable[Difference], count: int) -> list[Difference]:
    return list(islice(found, count))
