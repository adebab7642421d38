"""The C programs compile without a warning and refuse bad arguments; processes are started, awaited and ended."""
import subprocess
import sys
import time

import pytest

from bench import programs

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    programs.build(directory)
    return directory


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("accept_all", ["0", "batch"]),
        ("accept_all", ["0", "sometimes", "4096"]),
        ("accept_all", ["0", "batch", "4096", "tso"]),
        ("udp_flood", ["ns", "eth0", "no-mac", "10.0.0.1", "10.0.0.2", "64", "0", "0"]),
        ("udp_flood", ["ns", "eth0", "02:00:00:00:00:01", "10.0.0.1", "10.0.0.2", "0", "0", "0"]),
        ("udp_flood", ["ns", "eth0", "02:00:00:00:00:01", "10.0.0.1", "10.0.0.2", "15838", "0", "0"]),
        ("round_trip", ["client", "server", "nowhere", "1"]),
        ("connections", ["client", "server", "10.0.0.1"]),
    ],
)
def test_bad_arguments_are_bad_usage(built, program, arguments):
    done = subprocess.run([built / program, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert program in done.stderr


def test_a_namespace_that_does_not_exist_is_named(built):
    done = subprocess.run([built / "round_trip", "no-such", "no-such", "10.0.0.1", "1"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "cannot /var/run/netns/no-such: No such file or directory\n"


def test_running_is_entered_at_the_line_and_leaves_no_process():
    command = ["sh", "-c", "echo loading; echo ready; exec sleep 60"]
    with programs.running(programs.TRAFFIC_CORE, command, until="ready") as process:
        assert process.poll() is None
    assert process.returncode is not None


def test_running_says_that_the_program_ended_before_it_was_ready():
    with pytest.raises(programs.ProgramError, match="sh ended with status 3 before it was ready"):
        with programs.running(programs.TRAFFIC_CORE, ["sh", "-c", "echo loading; exit 3"], until="ready"):
            pass


def test_output_raises_with_what_the_program_said():
    with pytest.raises(programs.ProgramError, match="sh ended with status 4: no route"):
        programs.output(programs.TRAFFIC_CORE, ["sh", "-c", "echo no route >&2; exit 4"])


BUSY_THREADS = """
import threading, time

def spin():
    while time.thread_time() < 0.2:
        pass

threads = [threading.Thread(target=spin) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("ready", flush=True)
time.sleep(60)
"""


def test_cpu_time_counts_every_thread_of_a_process_and_not_its_sleep():
    with programs.running(programs.TRAFFIC_CORE, [sys.executable, "-c", BUSY_THREADS], until="ready") as process:
        used_ns = programs.cpu_ns(process.pid)
        time.sleep(0.2)
        assert used_ns >= 400_000_000
        assert programs.cpu_ns(process.pid) - used_ns < 20_000_000
