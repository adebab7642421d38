"""Python and C know the same names, with the same numbers; every Reason has words."""
import re
from pathlib import Path

import pytest

import pyfw.enums
import pyfw.reasons
from pyfw.conntrack import timeouts
from pyfw.enums import CtState, Direction, Hook, Reason, Reject, TcpState, Verdict
from pyfw.reasons import reason_text

PACKAGE = Path(pyfw.enums.__file__).parent


def declared(path: Path) -> list[dict[str, int]]:
    """The enumerations of a .pxd: one {name: number} for each, numbered as C does."""
    found: list[dict[str, int]] = []
    following = 0
    for line in path.read_text().splitlines():
        if re.match(r"cdef enum\b.*:", line):
            found.append({})
            following = 0
        elif found and (member := re.match(r"    ([A-Z][A-Z0-9_]*)(?: = (\d+))?\s*(?:#.*)?$", line)):
            following = int(member[2] or following)
            found[-1][member[1]] = following
            following += 1
    return found


def with_prefix(prefix: str) -> dict[str, int]:
    (members,) = [members for members in declared(PACKAGE / "enums.pxd") if next(iter(members)).startswith(prefix)]
    return {name.removeprefix(prefix): number for name, number in members.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("enum", "prefix"), [
    (Hook, "HOOK_"), (Verdict, "VERDICT_"), (CtState, "STATE_"), (Direction, "DIR_"), (Reject, "REJECT_"),
    (Reason, "REASON_"),
])
def test_python_and_c_agree(enum, prefix):
    assert {member.name: member.value for member in enum} == with_prefix(prefix)


def test_tcp_states_agree_but_for_their_number():
    in_c = with_prefix("TCP_")
    del in_c["STATES"]
    assert {member.name: member.value for member in TcpState} == in_c


def test_every_enumeration_of_c_is_compared_here():
    assert len(declared(PACKAGE / "enums.pxd")) == 7


@pytest.mark.parametrize(("hook", "number"), [("PREROUTING", 0), ("INPUT", 1), ("FORWARD", 2), ("OUTPUT", 3),
                                          ("POSTROUTING", 4)])
def test_hooks_have_the_numbers_of_the_kernel(hook, number):
    """linux/netfilter.h, enum nf_inet_hooks."""
    assert Hook[hook] == number


def test_verdicts_have_the_numbers_of_the_kernel():
    """linux/netfilter.h: NF_DROP, NF_ACCEPT."""
    assert (Verdict.DROP, Verdict.ACCEPT) == (0, 1)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words_and_its_arguments_fit(reason):
    words = reason_text(reason, (1, 0, TcpState.FIN_WAIT, 0))
    assert words if reason else words == ""
    assert "{" not in words
    assert "}" not in words


def test_no_words_without_a_reason():
    assert set(pyfw.reasons._TEXTS) == set(Reason)


@pytest.mark.parametrize(("reason", "arguments", "words"), [
    (Reason.TCP_STATE, (1, 0, TcpState.ESTABLISHED), "packet (index 1) in dir 0 invalid, state ESTABLISHED"),
    (Reason.TCP_IGNORED, (0, 1, TcpState.SYN_SENT2), "packet (index 0) in dir 1 ignored, state SYN_SENT2"),
    (Reason.TCP_SEQ_OVER, (4294967295, 0, 0),
     "SEQ is over upper bound 4294967295 (over the window of the receiver)"),
    (Reason.TCP_OVERSHOT, (17, 0, 0), "17 bytes more than expected"),
    (Reason.SCTP_CHUNK, (1, 10, 4, 1), "do_basic_checks failed. chunk num 1, type 10, len 4 flag 1"),
    (Reason.SCTP_VTAG, (0x1EC1, 0xAD0B, 1), "verification tag check failed 1ec1 vs ad0b for dir 1"),
])
def test_arguments_stand_in_the_words(reason, arguments, words):
    assert reason_text(reason, arguments) == words


def test_an_unknown_reason_is_refused():
    with pytest.raises(ValueError, match="is not a valid Reason"):
        reason_text(max(Reason) + 1)


def test_timeouts_stand_in_the_order_that_c_numbers_them():
    numbers, = [members for members in declared(PACKAGE / "conntrack" / "protocol.pxd") if "TIMEOUT_UDP" in members]
    order = list(timeouts.DEFAULTS)
    assert order[:TcpState.SYN_SENT2 + 1] == [
        f"tcp_{state.name.lower()}" for state in TcpState if state <= TcpState.SYN_SENT2]
    for name, number in numbers.items():
        named = name.removeprefix("TIMEOUT_").lower()
        if named in order:
            assert order.index(named) == number, name
    assert order.index("sctp_closed") == numbers["TIMEOUT_SCTP"]
    assert len(order) == numbers["TIMEOUTS"]
