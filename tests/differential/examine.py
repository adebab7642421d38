"""One list of packets through both trackers; the differences; the smallest list that still shows one."""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from differential import engine_side, recorded
from differential.compare import Difference, differences, story
from differential.engine_side import EngineEvidence
from differential.generate_mix import Scenario
from kit.packed_packets import flow
from kit.witness import Evidence, Sent, Settings, Witness


@dataclass(frozen=True, slots=True)
class Examination:
    """What both said of a scenario."""

    scenario: Scenario
    kernel: Evidence
    engine: EngineEvidence
    found: list[Difference]
    engine_settings: Settings | None = None     # if the engine tracked otherwise than the scenario says: a control

    def story(self, difference: Difference) -> str:
        return story(difference, self.scenario.packets, self.kernel, self.engine)

    def must_agree(self) -> None:
        """Raises AssertionError with the report if there is a difference."""
        if self.found:
            raise AssertionError(self.report(stories=3))

    def report(self, stories: int = 1) -> str:
        """Empty if there is nothing to report; else how many differences, and the first in full."""
        if not self.found:
            return ""
        told = "\n\n".join(self.story(difference) for difference in self.found[:stories])
        return f"{len(self.found)} differences in {len(self.scenario.packets)} packets\n\n{told}"


def examine(scenario: Scenario, witness: Witness | None = None, *, engine_settings: Settings | None = None) -> Examination:
    """Asks the kernel, then the engine.  A `witness` at hand (with the scenario's settings) is asked
    again; otherwise a namespace is made for this one question.  `engine_settings`, if the engine is to
    track otherwise than the kernel does: a control.  Needs root."""
    if witness is None:
        with Witness(scenario.settings) as own:
            return examine(scenario, own, engine_settings=engine_settings)
    kernel = witness.testify(scenario.packets)
    engine = engine_side.judge(scenario.packets, kernel, engine_settings or scenario.settings)
    return Examination(scenario, kernel, engine, list(differences(kernel, engine)), engine_settings)


NEW_DIFFERENCE = "new difference"       # pytest's property of a test that found one without failing


def keep(examination: Examination, path: Path) -> str:
    """Write the shortest list that shows the first difference, as recorded.py has it; returns both in words."""
    difference = examination.found[0]
    smallest = shrink(examination, difference)
    path.write_text(recorded.write(smallest, str(difference)), encoding="utf-8")
    return f"{difference}\nshortest list that shows it: {path} ({len(smallest.packets)} packets); scripts/differential sends it again"


# -- shrinking -------------------------------------------------------------------------------------

def signature(difference: Difference) -> tuple[str, ...]:
    """What makes two differences the same one to a reader: all but the numbers."""
    if difference.index is None:
        return difference.what, str(bool(difference.kernel)), str(bool(difference.engine))
    return tuple(re.sub(r"\d+", "#", text) for text in (difference.what, difference.kernel, difference.engine))


def shrink(examination: Examination, difference: Difference) -> Scenario:
    """The shortest list found that still shows this difference: first the flow alone, then packet by
    packet left out, as long as that changes nothing."""
    wanted = signature(difference)
    scenario = examination.scenario
    with Witness(scenario.settings) as witness:
        def shows(packets: list[Sent]) -> bool:
            found = examine(replace(scenario, packets=packets), witness, engine_settings=examination.engine_settings).found
            return any(signature(other) == wanted for other in found)

        return replace(scenario, packets=_leave_out(_one_flow(examination, difference, shows), shows))


def _one_flow(examination: Examination, difference: Difference, shows: Callable[[list[Sent]], bool]) -> list[Sent]:
    packets = examination.scenario.packets
    if difference.index is None:
        return packets
    upto = packets[:difference.index + 1]
    about = flow(upto[-1].data)
    alone = [packet for packet in upto if flow(packet.data) == about]
    return alone if shows(alone) else upto


def _leave_out(packets: list[Sent], shows: Callable[[list[Sent]], bool]) -> list[Sent]:
    step = max(1, len(packets) // 2)
    while True:
        at = 0
        while at < len(packets):
            fewer = packets[:at] + packets[at + step:]
            if fewer and shows(fewer):
                packets = fewer
            else:
                at += step
        if step == 1:
            return packets
        step = max(1, step // 2)
