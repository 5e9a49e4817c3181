"""How a service announces itself to a control plane: it joins, says how busy it is, and leaves when it stops.

As a process of its own, for services that cannot do it themselves: `python -m sidecars.announce --help`.
"""

from sidecars.announce.client import Announcer, Busy, Said, ServiceAwayError

__all__ = ["Announcer", "Busy", "Said", "ServiceAwayError"]
