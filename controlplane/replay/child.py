"""The process of a replay's gateway: `python -m controlplane.replay.child POLICY`, the policy's text on stdin.

It says `ready` on stdout when it serves, and ends when stdin does: however the replay ends, its gateway goes with it.
"""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.render import render
from controlplane.runtime.changes import Applied, Live
from controlplane.runtime.child import StartError
from controlplane.runtime.envoy import EnvoyNotFoundError
from controlplane.runtime.failures import ApplyError, NotReadyError
from controlplane.runtime.folder import RunFolderError
from controlplane.runtime.gateway import serve


class _Told:
    """The console of a gateway that nobody sits in front of."""

    def started(self, live: Live, nodes: tuple[str, ...]) -> None:
        print("ready", flush=True)

    def applied(self, applied: Applied) -> None:
        """Nothing is ever applied: the text is fixed."""

    def failed(self, error: PolicyError | ApplyError, text: str) -> None:
        print(error, file=sys.stderr)

    def reread(self, files: tuple[str, ...]) -> None:
        """What has to be told is told by `failed`."""

    def pending(self, names: tuple[str, ...]) -> None:
        """Nothing is ever edited."""

    def draining(self, seconds: float) -> None:
        """The replay waits for it anyway."""


def main() -> int:
    # Ends it in good order also while it starts; whoever started us may have had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    text = sys.stdin.readline()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        asyncio.run(serve(Path(sys.argv[1]), "replay", _Told(), lambda _: text))
    except PolicyError as error:
        for each in error.errors:
            print(render(each, text).partition("\n")[0], file=sys.stderr)
        return 1
    except (ApplyError, EnvoyNotFoundError, NotReadyError, RunFolderError, StartError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
