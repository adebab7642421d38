"""Helpers are found by name: built in, or named by an installed distribution's entry point."""
import sys

import pytest

from pyfw.helpers import ENTRY_POINT_GROUP, HelperBinding, HelperError, available, bind, make_helper
from pyfw.helpers.ftp import FtpHelper

SOURCE = '''
from pyfw.helpers import Expectation, Finding

class {name}:
    """Announces "OPEN port" from the server's side."""
    name = "mychat"
    protocol = 6
    max_expected = 2
    timeout_s = 60

    def __init__(self, *, colour="red"):
        if colour not in ("red", "blue"):
            raise ValueError(f"colour: must be red or blue, not {{colour!r}}")
        self.colour = colour

    def inspect(self, segment, memory):
        if segment.payload.startswith(b"OPEN "):
            return Finding(expectations=(Expectation(None, segment.sender, int(segment.payload[5:])),))

class Unfinished:
    name = "unfinished"
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(distribution, {helper name: attribute}) puts a distribution with that entry point on the path."""
    def make(distribution: str, entries: dict[str, str]) -> None:
        root = tmp_path / distribution
        metadata = root / f"{distribution}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {distribution}:{attribute}" for name, attribute in entries.items()]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *lines, ""]))
        (root / f"{distribution}.py").write_text(SOURCE.format(name="MyChatHelper"))
        monkeypatch.syspath_prepend(str(root))
        monkeypatch.delitem(sys.modules, distribution, raising=False)
    return make


def test_ftp_is_built_in():
    assert "ftp" in available()
    assert isinstance(make_helper("ftp"), FtpHelper)
    assert make_helper("ftp").strict is True
    assert make_helper("ftp", strict=False, loose=True).loose is True


def test_an_installed_distribution_adds_a_helper(install, talk):
    with pytest.raises(HelperError, match="helper mychat: unknown; there are: ftp"):
        bind("mychat", [6100])
    install("mychat_dist", {"mychat": "MyChatHelper"})
    binding = bind("mychat", [6100, 6101], colour="blue")
    assert binding == HelperBinding(binding.helper, (6100, 6101))
    assert binding.helper.colour == "blue"
    conversation = talk(binding.helper)
    (expectation,) = conversation.say("< OPEN 7000").expectations
    assert (expectation.source, expectation.destination, expectation.port) == (None, bytes([10, 0, 1, 2]), 7000)


def test_available_imports_nothing(install):
    install("lazy_dist", {"lazy": "NoSuchClass"})
    assert "lazy" in available()
    assert "lazy_dist" not in sys.modules


@pytest.mark.parametrize(("name", "options", "message"), [
    ("ftp", {"tight": True}, "helper ftp: got an unexpected keyword argument 'tight'; it takes: strict, loose"),
    ("ftp", {"strict": "yes"}, "helper ftp: strict: must be true or false, not 'yes'"),
    ("mychat", {"colour": "green"}, "helper mychat: colour: must be red or blue, not 'green'"),
    ("lazy", {}, "helper lazy: cannot import test_dist:NoSuchClass: .*NoSuchClass"),
    ("unfinished", {}, "helper unfinished: test_dist:Unfinished lacks protocol, max_expected, timeout_s, inspect"),
    ("gopher", {}, "helper gopher: unknown; there are: ftp, lazy, mychat, unfinished"),
])
def test_what_is_wrong_is_said_in_one_line(install, name, options, message):
    install("test_dist", {"mychat": "MyChatHelper", "lazy": "NoSuchClass", "unfinished": "Unfinished"})
    with pytest.raises(HelperError, match=message) as refusal:
        make_helper(name, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["ftp", "mychat"])
def test_one_name_belongs_to_one_helper(install, name):
    install("first_dist", {name: "MyChatHelper"})
    install("second_dist", {name: "MyChatHelper"})
    with pytest.raises(HelperError, match=f"helper {name}: both .* and .* claim this name: uninstall one of them"):
        available()


@pytest.mark.parametrize("port", [0, -1, 65536, "21", True, None])
def test_ports_are_ports(port):
    with pytest.raises(HelperError, match=r"helper ftp: port .*: must be a number from 1 to 65535"):
        bind("ftp", [port])
