"""Running the driver at a target: where its inputs come from, where findings go, what it reports."""
from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fuzz.build import BUILD, DRIVER, HERE, environment
from fuzz.seeds import initial_inputs, words

# Target -> bytes that an input may have.
TARGETS = {
    "packets": 4096, "messages": 512, "hand": 512, "table": 1024, "capture": 2048, "reassembly": 1024,
    "iptables": 8192, "edits": 2048, "config": 4096, "sets": 2048, "policy": 4096, "question": 256, "control": 1024,
}
FINDINGS = BUILD / "findings"
CORPUS = HERE / "corpus"            # TARGET.zip: minimised; TARGET/: inputs that once found something
INPUT_S = 60                        # an input that takes longer is a finding; a machine may be busy
MEMORY_MB = 2048                    # likewise, one that takes more
LAST_WORDS = 40


@dataclass(frozen=True)
class Outcome:
    target: str
    executions: int
    packets: int                    # that an engine judged
    edges: int                      # of the compiled code, and lines of Python, that were reached
    features: int                   # edges with how often they were taken
    inputs: int                     # that each reach something of their own
    findings: tuple[Path, ...]
    last_words: str


def grown(target: str) -> Path:
    """Where inputs are kept from one run to the next."""
    return BUILD / "corpus" / target


def run(target: str, seconds: int, seed: int = 0, *, corpus: Path) -> Outcome:
    """Fuzz until the time is over or something is found; new inputs go to `corpus`."""
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pyfw-fuzz-") as directory:
        given = Path(directory)
        unpack(target, given / "inputs")
        (given / "words").write_text("".join(f'"{word}"\n' for word in words(target)) + "# no more\n")
        before = set(FINDINGS.glob("*"))
        done = drive(target, [f"-max_total_time={seconds}", f"-seed={seed}", f"-dict={given / 'words'}", "-print_final_stats=1",
                              "-len_control=0", "-entropic=0", str(corpus), str(given / "inputs")])
    said = done.stderr
    findings = sorted(set(FINDINGS.glob("*")) - before)
    if done.returncode and not findings:
        raise RuntimeError(f"the driver ended with status {done.returncode}:\n{said[-4000:]}")
    reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/", said) or [(0, 0, 0)]
    return Outcome(target, number(said, "number_of_executed_units"), number(said, "packets_judged"), *map(int, reached[-1]),
                   tuple(findings), "\n".join(said.splitlines()[-LAST_WORDS:]))


def drive(target: str, options: list[str]) -> subprocess.CompletedProcess:
    FINDINGS.mkdir(parents=True, exist_ok=True)     # the driver wants it
    limits = [f"-max_len={TARGETS.get(target, 64)}", f"-timeout={INPUT_S}", f"-report_slow_units={INPUT_S}",
              f"-rss_limit_mb={MEMORY_MB}"]
    return subprocess.run([DRIVER, *limits, f"-artifact_prefix={FINDINGS}/{target}-", *options], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", env=environment() | {"FUZZ_TARGET": target})


def number(said: str, name: str) -> int:
    found = re.search(rf"stat::{name}:\s+(\d+)", said)
    return int(found[1]) if found else 0


def unpack(target: str, directory: Path) -> None:
    """All inputs that the project has for a target."""
    directory.mkdir(parents=True)
    for data in initial_inputs(target):
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)
    for path in (CORPUS / target).glob("*"):
        shutil.copy(path, directory)
    if (CORPUS / f"{target}.zip").exists():
        with zipfile.ZipFile(CORPUS / f"{target}.zip") as archive:
            archive.extractall(directory)


def minimise(target: str) -> None:
    """The fewest inputs that reach what all of them reach, the shortest first, into the project's corpus."""
    with tempfile.TemporaryDirectory(prefix="pyfw-fuzz-") as directory:
        kept, given = Path(directory, "kept"), Path(directory, "given")
        kept.mkdir()
        unpack(target, given)
        drive(target, ["-set_cover_merge=1", str(kept), str(grown(target)), str(given)])
        with zipfile.ZipFile(CORPUS / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(kept.iterdir()):
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
