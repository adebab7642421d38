"""Traffic for the tests: a gateway with a made-up clock, and the two ends of a TCP connection through it.

    tcp.client.syn(); tcp.server.synack(); tcp.client.ack()
    watch.wait(3)
    assert tcp.client.data(100).state == CtState.ESTABLISHED
"""
from kit.packets import ACK, CLIENT, FIN, PSH, RST, SERVER, SYN, tcp
from pyfw.conntrack.selection import Selection
from pyfw.conntrack.settings import TcpSettings, TrackingSettings
from pyfw.engine.engine import Engine, Judgement
from pyfw.enums import Hook
from pyfw.observe.dump import dump_records, dump_text

START_S = 1000.0


def taken_tracking(settings: dict) -> TrackingSettings:
    """Take what concerns tracking out of an engine's settings: names as TrackingSettings', those of TCP begin with tcp_."""
    tcp = {name.removeprefix("tcp_"): settings.pop(name) for name in list(settings) if name.startswith("tcp_")}
    others = {name: settings.pop(name) for name in ("accounting", "checksum", "timeouts") if name in settings}
    return TrackingSettings(tcp=TcpSettings(**tcp), **others)


class Watch:
    """An engine with a clock in seconds that only wait() moves; settings as Engine's and taken_tracking's."""

    def __init__(self, **settings):
        settings.setdefault("max_entries", 1024)
        settings.setdefault("expect_max", 16)
        self.engine = Engine(tracking=taken_tracking(settings), **settings)
        self.now_s = START_S
        self.sent = 0
        self.first_heard: dict[frozenset[bytes], bytes] = {}

    @property
    def now_ns(self) -> int:
        return round(self.now_s * 1e9)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def send(self, data: bytes, hook: Hook = Hook.FORWARD, links: tuple[str, str] | None = None, **options) -> Judgement:
        """Through two interfaces: `links`, or those of the sides that its hosts are on."""
        self.sent += 1
        return self.engine.judge(data, hook, *(links or self.links_of(data)), self.now_ns, **options)

    def links_of(self, data: bytes) -> tuple[str, str]:
        """Of two hosts, the one that is heard first is behind eth0."""
        source, target = (data[12:16], data[16:20]) if data[:1] < b"\x60" else (data[8:24], data[24:40])
        first = self.first_heard.setdefault(frozenset((source, target)), source)
        return ("eth0", "eth1") if source == first else ("eth1", "eth0")

    def records(self, selection: Selection | None = None) -> list[dict]:
        found, cursor = [], 1
        while cursor:
            records, cursor = dump_records(self.engine, selection or Selection(), cursor, self.now_ns)
            found += records
        return found

    def lines(self, style: str = "proc", selection: Selection | None = None) -> list[str]:
        text, cursor = b"", 1
        while cursor:
            piece, cursor, _ = dump_text(self.engine, selection or Selection(), style, cursor, self.now_ns)
            text += piece
        return text.decode().splitlines()

    def only(self) -> dict:
        """The table's only entry."""
        (record,) = self.records()
        return record

    def reasons(self) -> dict[str, int]:
        return self.engine.counters()["reasons"]

    def table(self) -> dict[str, int]:
        return self.engine.counters()["table"]


class End:
    """One end of a TCP connection.  What it says in order moves its numbers; what is said with seq= or ack= does not."""

    def __init__(self, watch: Watch, address: str, port: int, seq: int):
        self.watch = watch
        self.address = address
        self.port = port
        self.seq = seq
        self.ack_number = 0
        self.window = 65535
        self.options = b""          # of its SYN
        self.peer: End = self

    def packet(self, flags: int, payload: bytes = b"", *, seq: int | None = None, ack: int | None = None,
               window: int | None = None, options: bytes = b"") -> bytes:
        if ack is None:
            ack = self.ack_number if flags & ACK else 0
        return tcp(self.address, self.peer.address, self.port, self.peer.port, flags,
                   seq=self.seq if seq is None else seq, ack=ack,
                   window=self.window if window is None else window, options=options, payload=payload)

    def say(self, flags: int, payload: bytes = b"", *, seq: int | None = None, ack: int | None = None,
            **fields) -> Judgement:
        data = self.packet(flags, payload, seq=seq, ack=ack, **fields)
        if seq is None and ack is None:
            self.seq = (self.seq + len(payload) + bool(flags & SYN) + bool(flags & FIN)) % 2**32
            self.peer.ack_number = self.seq
        return self.watch.send(data)

    def syn(self, **fields) -> Judgement:
        return self.say(SYN, options=fields.pop("options", self.options), **fields)

    def synack(self, **fields) -> Judgement:
        return self.say(SYN | ACK, options=fields.pop("options", self.options), **fields)

    def ack(self, **fields) -> Judgement:
        return self.say(ACK, **fields)

    def data(self, length: int, **fields) -> Judgement:
        return self.say(ACK | PSH, bytes(length), **fields)

    def fin(self, **fields) -> Judgement:
        return self.say(FIN | ACK, **fields)

    def rst(self, **fields) -> Judgement:
        return self.say(RST, **{"seq": self.seq, **fields})


class TcpConversation:
    """A client and a server; open() shakes hands, close() takes leave."""

    def __init__(self, watch: Watch, client: str = CLIENT, server: str = SERVER, *, sport: int = 40000,
                 dport: int = 80, client_seq: int = 1000, server_seq: int = 5000):
        self.watch = watch
        self.client = End(watch, client, sport, client_seq)
        self.server = End(watch, server, dport, server_seq)
        self.client.peer, self.server.peer = self.server, self.client

    def open(self) -> "TcpConversation":
        self.client.syn()
        self.server.synack()
        self.client.ack()
        return self

    def close(self) -> "TcpConversation":
        """The client closes first; the entry ends in TIME_WAIT."""
        self.client.fin()
        self.server.ack()
        self.server.fin()
        self.client.ack()
        return self

    @property
    def state(self) -> str:
        return self.record["state"]

    @property
    def timeout_s(self) -> float:
        return self.record["timeout"]

    @property
    def record(self) -> dict:
        (found,) = [record for record in self.watch.records()
                    if record["original"].get("sport") in (self.client.port, self.server.port)]
        return found
