"""Where the ADS server listens."""

import os
import socket
import stat
from pathlib import Path

_UNIX = "unix:"
# sun_path of Linux, less its terminating zero.
_LONGEST_PATH = 107


class AdsAddressError(Exception):
    """The ADS server cannot listen where it was told to. Its text says why and what to do."""


def socket_path(address: str) -> Path | None:
    """The path of a unix socket address ("unix:/path"), None for "host:port"."""
    return Path(address.removeprefix(_UNIX)) if address.startswith(_UNIX) else None


def make_room(path: Path) -> None:
    """Removes the socket file that a dead server left behind.

    Raises:
        AdsAddressError: something else is there, or a server that lives, or no socket can be made there.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise AdsAddressError(
            f"the path of the xDS socket is longer than {_LONGEST_PATH} bytes, which no socket can have: {path}. "
            f"Use a folder with a shorter path."
        )
    if not path.parent.is_dir():
        raise AdsAddressError(f"the folder of the xDS socket does not exist: {path.parent}. Create it first.")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AdsAddressError(f"{path} should be the xDS socket, but is another kind of file. Remove or rename it.")
    if _alive(path):
        raise AdsAddressError(f"another process serves the xDS socket {path}. Stop it, or use another folder.")
    path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # somebody listens, with a full backlog
        except OSError:
            return False
    return True
