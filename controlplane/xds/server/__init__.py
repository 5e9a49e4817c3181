"""The ADS server: hands snapshots to Envoys and knows what each of them made of it."""

from controlplane.xds.server.address import AdsAddressError
from controlplane.xds.server.nodes import Nack, NodeView, TypeView
from controlplane.xds.server.outcome import Outcome, Rejection, Verdict, Waiting
from controlplane.xds.server.protocol import DeltaStream, SotwStream
from controlplane.xds.server.service import AdsServer
from controlplane.xds.server.stream import Response

__all__ = [
    "AdsAddressError",
    "AdsServer",
    "DeltaStream",
    "Nack",
    "NodeView",
    "Outcome",
    "Rejection",
    "Response",
    "SotwStream",
    "TypeView",
    "Verdict",
    "Waiting",
]
