import pytest

from unit.core.traffic import TcpConversation, Watch


@pytest.fixture
def watch() -> Watch:
    """An engine without rules: it tracks, and accepts everything."""
    return Watch()


@pytest.fixture
def tcp(watch) -> TcpConversation:
    return TcpConversation(watch)
