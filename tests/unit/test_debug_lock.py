"""The lock is held where it must be: unit tests run in the debug build, which ends where it is not."""
from __future__ import annotations

import signal
import subprocess

import pytest

from kit.debug_lock import LOADED, PYTEST, ROOT, build, command

CHOSEN = [f"tests/unit/{path}" for path in (
    "engine", "conntrack/test_expectations.py", "conntrack/test_sources.py", "explain/test_dry_run.py", "helpers/test_budget.py", "observe",
    "rules/program", "rules/sets", "rules/test_cases.py")]
CALLS = LOADED + """
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, c_char_p, c_int, c_void_p, cast, create_string_buffer, py_object, pythonapi
from importlib import import_module

name_of = PYFUNCTYPE(c_char_p, py_object)(("PyCapsule_GetName", pythonapi))
pointer_of = PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", pythonapi))

def address(capsule):
    return pointer_of(capsule, name_of(capsule))

def look_into_nothing():
    capsule = import_module("pyfw.rules.sets.lookup").__pyx_capi__["remove_packet"]
    CFUNCTYPE(None, c_void_p, c_void_p, c_int, c_int)(address(capsule))(create_string_buffer(64), None, 0, 0)

guard = pyfw.lock.Lock()
methods = cast(address(pyfw.lock.Lock.__pyx_vtable__), POINTER(c_void_p))       # note_hold, lock, lock_background, unlock
lock, lock_background, unlock = (CFUNCTYPE(None, py_object)(methods[number]) for number in (1, 2, 3))
lock_with_the_gil = PYFUNCTYPE(None, py_object)(methods[1])
"""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build()


def calls(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(CALLS + code), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_unit_tests_hold_the_lock_where_they_must() -> None:
    done = subprocess.run(command(PYTEST, "-q", "-x", "--capture=sys", "-p", "no:cacheprovider", "-m", "not root and not slow", *CHOSEN), cwd=ROOT,
                          capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("code", "said"), [
    ("look_into_nothing()", "__pyx_f_4pyfw_5rules_4sets_6lookup_remove_packet: the lock is not held\n"),
    ("lock(guard); unlock(guard); look_into_nothing()", "__pyx_f_4pyfw_5rules_4sets_6lookup_remove_packet: the lock is not held\n"),
    ("lock_with_the_gil(guard)", "lock: it is taken with the GIL\n"),
    ("lock(guard); lock_background(pyfw.lock.Lock())", "lock: it is taken by who holds one\n"),
])
def test_the_control_what_must_not_be_ends_the_process(code: str, said: str) -> None:
    done = calls(code)
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, said)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_control_what_may_be_does_not() -> None:
    done = calls("lock(guard); unlock(guard); lock_background(guard); unlock(guard); print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
