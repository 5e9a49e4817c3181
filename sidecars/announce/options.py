"""What announcing takes on a command line, for this package and for services that announce themselves."""

import argparse
import os
import socket
from urllib.parse import urlsplit

from sidecars.announce.client import Said


class OptionsError(Exception):
    """An option that cannot be used. Its text says which, why, and what to do."""


def add(parser: argparse.ArgumentParser, *, capacity: int) -> None:
    """The options that describe the service. `capacity` is what it has by default."""
    parser.add_argument("--provider", help="the provider of the policy whose endpoint it is")
    parser.add_argument("--token-env", help="the environment variable that holds the provider's registration token")
    parser.add_argument("--id", help="its name, the same after a restart; by default host name and port")
    parser.add_argument(
        "--address", help="where it serves, as IP:PORT; :PORT stands for the IP that the control plane is reached from"
    )
    parser.add_argument("--capacity", type=int, default=capacity, help=f"requests at a time; {capacity} by default")
    parser.add_argument("--ttl", type=float, help="seconds that it stays without a heartbeat; by default the policy's")


def said(options: argparse.Namespace, url: str, listening: str = "") -> Said:
    """What to announce to the control plane at `url`, without models; `listening` counts where no --address is given.

    Raises:
        OptionsError: something is missing.
    """
    if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
        raise OptionsError(f"{url!r} is no URL of a control plane, such as http://10.0.0.1:9800")
    if not options.provider:
        raise OptionsError("--provider is missing: the provider of the policy whose endpoint this is")
    address = options.address or listening
    if not address:
        raise OptionsError("--address is missing: IP:PORT, or :PORT for the IP that the control plane is reached from")
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise OptionsError(f"--address {address!r}: expected IP:PORT or :PORT")
    where = address if host else f"{_bracketed(own_address(url))}:{port}"
    name = options.id or f"{socket.gethostname().split('.')[0]}-{port}"
    return Said(name, options.provider, where, capacity=options.capacity, ttl_s=options.ttl)


def token(options: argparse.Namespace) -> str:
    """Raises OptionsError: there is none."""
    found = os.environ.get(options.token_env or "", "").strip()
    if not found:
        raise OptionsError("--token-env names no environment variable with the provider's registration token")
    return found


def own_address(url: str) -> str:
    """The address of this machine on its way to a URL; nothing is sent. Raises OptionsError."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        family, kind, _, _, target = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            found: str = probe.getsockname()[0]
            return found
    except (OSError, ValueError) as error:
        raise OptionsError(f"no way to {url} ({error}): write --address IP:PORT") from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
