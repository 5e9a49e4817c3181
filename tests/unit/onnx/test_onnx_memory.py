"""What models took goes back to the system."""

from pathlib import Path

from sidecars.onnx.memory import give_back


def _resident() -> int:
    """Of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_was_freed_goes_back() -> None:
    # Blocks too small for maps of their own, held in place by the last of them.
    blocks = [bytes(100_000) for _ in range(1500)]
    last = blocks.pop()
    full = _resident()
    blocks.clear()
    give_back()
    assert _resident() < full - 100_000_000
    assert last
