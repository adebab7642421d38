"""When a packet comes.  iptables-extensions(8): time."""
from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

from pyfw.rules import values
from pyfw.rules.code import RuleCode
from pyfw.rules.language.kinds import MatchKind, Option, flag
from pyfw.rules.model import Match, Setting
from pyfw.rules.xt.packet import TimeTest

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LAST_SECOND = 2 ** 31 - 1       # 19 January 2038: the last that iptables lets a rule speak of
DAY_S = 86400
ALL_MONTH_DAYS, ALL_WEEK_DAYS = 0xFFFFFFFE, 0xFE


def parse_date(text: str) -> int:
    """YYYY[-MM[-DD[Thh[:mm[:ss]]]]], as seconds since 1970."""
    found = re.fullmatch(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:T(\d{1,2})(?::(\d{1,2})(?::(\d{1,2}))?)?)?)?)?", text)
    if not found:
        raise ValueError(f"{text!r} is not a date; write 2030-12-31 or 2030-12-31T23:59:59")
    year, month, day, hour, minute, second = (int(part) if part else 0 for part in found.groups())
    try:
        stamp = int(datetime(year, month or 1, day or 1, hour, minute, second, tzinfo=UTC).timestamp())
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date: {error}") from None
    if not 0 <= stamp <= LAST_SECOND:
        raise ValueError(f"date {text} is out of range: 1970 to {print_date(LAST_SECOND)}")
    return stamp


def print_date(stamp_s: int) -> str:
    return datetime.fromtimestamp(stamp_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_time(text: str) -> int:
    """hh:mm[:ss], as seconds of the day."""
    found = re.fullmatch(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?", text)
    parts = [int(part or 0) for part in found.groups()] if found else [24, 0, 0]
    if parts[0] > 23 or parts[1] > 59 or parts[2] > 59:
        raise ValueError(f"{text!r} is not a time of the day; write 08:00 or 17:59:59")
    return parts[0] * 3600 + parts[1] * 60 + parts[2]


def print_time(second: int) -> str:
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"


def parse_month_days(text: str) -> int:
    bits = 0
    for part in text.split(","):
        day = values.parse_number(part, 31, "day of the month")
        if day == 0:
            raise ValueError("days of the month begin with 1")
        bits |= 1 << day
    return bits


def print_month_days(bits: int) -> str:
    return ",".join(str(day) for day in range(1, 32) if bits >> day & 1)


def parse_week_days(text: str) -> int:
    """Names of days, two letters or more, or numbers from 1 for Monday."""
    bits = 0
    for part in text.split(","):
        fitting = [number for number, name in enumerate(DAYS, 1)
                   if part == str(number) or (len(part) >= 2 and name.lower().startswith(part.lower()[:3]))]
        if not fitting:
            raise ValueError(f"unknown day {part!r}; there are {', '.join(DAYS)} and 1 to 7")
        bits |= 1 << fitting[0]
    return bits


def print_week_days(bits: int) -> str:
    return ",".join(name for number, name in enumerate(DAYS, 1) if bits >> number & 1)


def settle_time(match: Match, family: int | None) -> Match:
    """`!` before days means the other days; a time of the day has two ends."""
    whole = {"--weekdays": ALL_WEEK_DAYS, "--monthdays": ALL_MONTH_DAYS}
    given = {setting.option: Setting(setting.option, whole[setting.option] & ~setting.value) if setting.inverted else setting
             for setting in match.settings}
    if "--timestart" in given or "--timestop" in given:
        given = {"--timestart": Setting("--timestart", 0), "--timestop": Setting("--timestop", DAY_S - 1)} | given
    return replace(match, settings=tuple(given.values()))


def ordinal(day: int) -> str:
    return f"{day}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10 if day // 10 != 1 else 0, 'th')}"


def compile_time(match: Match, code: RuleCode) -> None:
    def value(option: str, default: int) -> int:
        setting = match.get(option)
        return setting.value if setting else default

    code.tests.append(TimeTest(
        value("--datestart", 0), value("--datestop", LAST_SECOND), value("--timestart", 0), value("--timestop", DAY_S - 1),
        value("--monthdays", ALL_MONTH_DAYS), value("--weekdays", ALL_WEEK_DAYS),
        match.get("--kerneltz") is not None, match.get("--contiguous") is not None))


def check_time(match: Match) -> None:
    start, stop = match.get("--datestart"), match.get("--datestop")
    if start and stop and start.value > stop.value:
        raise ValueError(f"--datestart {print_date(start.value)} is after --datestop {print_date(stop.value)}")
    first, last = match.get("--timestart"), match.get("--timestop")
    if match.get("--contiguous") and not (first and last and first.value > last.value):
        raise ValueError("--contiguous is for times over midnight, as --timestart 22:00 --timestop 06:00")


def show_time(match: Match, numeric: bool) -> str:
    words = ["TIME"]
    first, last = match.get("--timestart"), match.get("--timestop")
    if first or last:
        words.append(f"from {print_time(first.value if first else 0)} to {print_time(last.value if last else DAY_S - 1)}")
    if setting := match.get("--weekdays"):
        words.append(f"on {print_week_days(setting.value)}")
    if setting := match.get("--monthdays"):
        words.append("on " + ",".join(ordinal(day) for day in range(1, 32) if setting.value >> day & 1))
    for option, word in (("--datestart", "starting from"), ("--datestop", "until date")):
        if setting := match.get(option):
            words.append(f"{word} {print_date(setting.value).replace('T', ' ')}")
    if not match.get("--kerneltz"):
        words.append("UTC")
    return " ".join([*words, *(["contiguous"] if match.get("--contiguous") else [])])


MATCHES = (
    MatchKind("time", compile=compile_time, show=show_time, check=check_time, settle=settle_time, needs_option=False, options=(
        Option("--timestart", parse_time, negatable=False, print=print_time),
        Option("--timestop", parse_time, negatable=False, print=print_time),
        Option("--monthdays", parse_month_days, print=print_month_days),
        Option("--weekdays", parse_week_days, print=print_week_days),
        Option("--datestart", parse_date, negatable=False, print=print_date, trivial=(0).__eq__),
        Option("--datestop", parse_date, negatable=False, print=print_date, trivial=LAST_SECOND.__eq__),
        flag("--kerneltz"), flag("--contiguous"),
    )),
)
