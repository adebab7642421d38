"""Targets that mark packets and connections.  iptables-extensions(8): MARK, CONNMARK."""
from __future__ import annotations

from dataclasses import replace
from functools import partial

from pyfw.rules import values
from pyfw.rules.code import RuleCode
from pyfw.rules.language.extensions.packet import ALL_32_BITS, Masked, parse_mark
from pyfw.rules.language.kinds import Option, TargetKind, flag
from pyfw.rules.model import Rule, Setting, Target
from pyfw.rules.xt.mark import ConnMarkAction, MarkAction


def xmark(value: int, mask: int) -> Masked:
    return Masked(value, mask, whole=-1)        # always printed with its mask


def parse_xmark(text: str) -> Masked:
    mark = parse_mark(text)
    return xmark(mark.value, mark.mask)


def parse_set(text: str) -> Masked:
    """--set-mark V/M: the bits of V and M are cleared first."""
    mark = parse_mark(text)
    return xmark(mark.value, mark.mask | mark.value)


def parse_bits(text: str) -> int:
    return values.parse_number(text, ALL_32_BITS, "mark")


def xmark_options() -> tuple[Option, ...]:
    """--set-xmark and its short forms, which all say how bits are cleared and flipped."""
    short = (("--set-mark", parse_set),
             ("--and-mark", lambda text: xmark(0, ~parse_bits(text) & ALL_32_BITS)),
             ("--or-mark", lambda text: xmark(parse_bits(text), parse_bits(text))),
             ("--xor-mark", lambda text: xmark(parse_bits(text), 0)))
    return (Option("--set-xmark", parse_xmark, negatable=False),
            *(Option(name, parse, negatable=False, stored_as="--set-xmark") for name, parse in short))


def show_xmark(name: str, mark: Masked) -> str:
    """In the words of the short form that it is."""
    if mark.value == 0:
        return f"{name} and 0x{~mark.mask & ALL_32_BITS:x}"
    if mark.value == mark.mask:
        return f"{name} or 0x{mark.value:x}"
    if mark.mask == 0:
        return f"{name} xor 0x{mark.value:x}"
    if mark.mask == ALL_32_BITS:
        return f"{name} set 0x{mark.value:x}"
    return f"{name} xset {mark}"


def check_mark(target: Target, rule: Rule) -> None:
    if not target.get("--set-xmark"):
        raise ValueError("MARK needs --set-xmark or one of its short forms, --set-mark among them")


def compile_mark(target: Target, code: RuleCode) -> None:
    mark = target["--set-xmark"].value
    code.perform(MarkAction(mark.value, mark.mask))


def check_connmark(target: Target, rule: Rule) -> None:
    given = [name for name in ("--set-xmark", "--save-mark", "--restore-mark") if target.get(name)]
    if len(given) != 1:
        raise ValueError("CONNMARK needs one of --set-mark, --save-mark, --restore-mark")
    if given == ["--set-xmark"] and len(target.settings) > 1:
        raise ValueError("--nfmask, --ctmask and --mask go with --save-mark and --restore-mark")


def connmark_masks(target: Target) -> tuple[int, int]:
    """(the packet's, the connection's)"""
    nfmask, ctmask = (target.get(name) for name in ("--nfmask", "--ctmask"))
    return nfmask.value if nfmask else ALL_32_BITS, ctmask.value if ctmask else ALL_32_BITS


def settle_connmark(target: Target, family: int | None) -> Target:
    """Saving and restoring say both masks, as iptables-save does; --mask says them at once."""
    if target.get("--set-xmark"):
        return target
    both = target.get("--mask")
    nfmask, ctmask = (both.value, both.value) if both else connmark_masks(target)
    command = next(setting for setting in target.settings if setting.option in ("--save-mark", "--restore-mark"))
    return replace(target, settings=(command, Setting("--nfmask", nfmask), Setting("--ctmask", ctmask)))


def compile_connmark(target: Target, code: RuleCode) -> None:
    if mark := target.get("--set-xmark"):
        code.perform(ConnMarkAction("--set-xmark", mark.value.value, mark.value.mask))
        return
    nfmask, ctmask = connmark_masks(target)
    command = "--save-mark" if target.get("--save-mark") else "--restore-mark"
    code.perform(ConnMarkAction(command, 0, ctmask, nfmask))


def show_connmark(target: Target, numeric: bool) -> str:
    if mark := target.get("--set-xmark"):
        return show_xmark("CONNMARK", mark.value)
    nfmask, ctmask = connmark_masks(target)
    word = "save" if target.get("--save-mark") else "restore"
    if nfmask == ctmask:
        return f"CONNMARK {word}" + ("" if ctmask == ALL_32_BITS else f" mask 0x{ctmask:x}")
    return f"CONNMARK {word} nfmask 0x{nfmask:x} ctmask ~0x{ctmask:x}"


mask_option = partial(Option, parse=parse_bits, negatable=False, print="0x{:x}".format)

TARGETS: tuple[TargetKind, ...] = (
    TargetKind("MARK", compile_mark, xmark_options(), show=lambda target, numeric: show_xmark("MARK", target["--set-xmark"].value),
               check=check_mark),
    TargetKind("CONNMARK", compile_connmark, show=show_connmark, check=check_connmark, settle=settle_connmark, options=(
        *xmark_options(), flag("--save-mark"), flag("--restore-mark"),
        mask_option("--nfmask"), mask_option("--ctmask"), mask_option("--mask"),
    )),
)
