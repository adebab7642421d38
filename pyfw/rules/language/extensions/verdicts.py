"""Targets that decide or say something.  iptables-extensions(8): REJECT, LOG; iptables(8): ACCEPT, DROP, RETURN."""
from __future__ import annotations

from dataclasses import replace
from functools import partial

from pyfw.enums import Reject
from pyfw.rules import names, values
from pyfw.rules.code import Action, LogSettings, RuleCode
from pyfw.rules.language.kinds import Option, TargetKind, act, flag
from pyfw.rules.model import Misfit, Rule, Setting, Target

MAX_LOG_PREFIX_LENGTH = 29
DEFAULT_LOG_LEVEL = 4
PORT_UNREACHABLE = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}


def reject_kind(target: Target) -> str:
    setting = target.get("--reject-with")
    return setting.value if setting else names.ANY_PORT_UNREACHABLE


def reject_family(kind: str) -> int | None:
    return 4 if kind in names.REJECTS_V4 else 6 if kind in names.REJECTS_V6 else None


def settle_reject(target: Target, family: int | None) -> Target:
    """Plain REJECT answers port-unreachable; a rule bound to a family says which of the two."""
    if reject_kind(target) != names.ANY_PORT_UNREACHABLE:
        return target
    return replace(target, settings=(Setting("--reject-with", PORT_UNREACHABLE[family]),) if family else ())


def check_reject(target: Target, rule: Rule) -> None:
    protocol = (header.get("-p") if (header := rule.match("ip")) else None)
    if reject_kind(target) == "tcp-reset" and not (protocol and protocol.value == 6 and not protocol.inverted):
        raise Misfit("--reject-with tcp-reset answers TCP only; say -p tcp")


def compile_reject(target: Target, code: RuleCode) -> None:
    code.action = Action.DROP
    kinds = names.REJECTS_V4 | names.REJECTS_V6 | {"tcp-reset": Reject.TCP_RESET}
    code.reject = kinds[reject_kind(target)]


def compile_log(target: Target, code: RuleCode) -> None:
    code.action = Action.LOG
    given = {setting.option: setting.value for setting in target.settings}
    code.log = LogSettings(
        prefix=given.get("--log-prefix", ""), level=given.get("--log-level", DEFAULT_LOG_LEVEL),
        tcp_sequence="--log-tcp-sequence" in given, tcp_options="--log-tcp-options" in given,
        ip_options="--log-ip-options" in given)


def show_reject(target: Target, numeric: bool) -> str:
    return f"reject-with {reject_kind(target)}"


LEVEL_NAMES = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")
LOG_FLAGS = {"--log-tcp-sequence": 1, "--log-tcp-options": 2, "--log-ip-options": 4, "--log-uid": 8, "--log-macdecode": 32}
"""NF_LOG_*"""


def show_log(target: Target, numeric: bool) -> str:
    given = {setting.option: setting.value for setting in target.settings}
    flags = sum(bit for option, bit in LOG_FLAGS.items() if option in given)
    level = given.get("--log-level", DEFAULT_LOG_LEVEL)
    prefix = f' prefix "{given["--log-prefix"]}"' if "--log-prefix" in given else ""
    if numeric:
        return f"LOG flags {flags} level {level}{prefix}"
    words = [option[2:].replace("log-", "") for option in LOG_FLAGS if option in given]
    return " ".join(["LOG", f"level {LEVEL_NAMES[level]}", *words]) + prefix


TARGETS = (
    TargetKind("ACCEPT", act(Action.ACCEPT)),
    TargetKind("DROP", act(Action.DROP)),
    TargetKind("RETURN", act(Action.RETURN)),
    TargetKind("REJECT", compile_reject, show=show_reject, tables=("filter",), check=check_reject, settle=settle_reject, options=(
        Option("--reject-with", values.parse_reject, negatable=False),
    )),
    TargetKind("LOG", compile_log, show=show_log, options=(
        Option("--log-prefix", partial(values.parse_text, longest=MAX_LOG_PREFIX_LENGTH, what="the log prefix"),
               negatable=False, print=values.quote, free_text=True),
        Option("--log-level", values.parse_log_level, negatable=False, trivial=DEFAULT_LOG_LEVEL.__eq__),
        flag("--log-tcp-sequence"), flag("--log-tcp-options"), flag("--log-ip-options"),
        flag("--log-uid"), flag("--log-macdecode"),
    )),
)
