"""Files that other processes read: whole or not at all."""

import os
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Puts a private file in place. Raises OSError; what was there before then stays."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)  # on a full disk, every byte counts
        raise
