"""Short ways to write protos. xds-protos is older than Envoy 1.40, so what it lacks travels as TypedStruct."""

from typing import Any

from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value
from xds.type.v3.typed_struct_pb2 import TypedStruct

PREFIX = "type.googleapis.com/"
# An attempt goes to another host than those before it.
PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


def pack(message: Message) -> AnyProto:
    """A deterministic google.protobuf.Any of a message."""
    packed = AnyProto()
    packed.Pack(message, deterministic=True)
    return packed


def typed_struct(type_name: str, value: dict[str, Any]) -> AnyProto:
    """An Any of a message that xds-protos does not know; Envoy converts it by the type's name."""
    struct = Struct()
    struct.update(value)
    return pack(TypedStruct(type_url=PREFIX + type_name, value=struct))


def millis(value: int) -> Duration:
    return Duration(seconds=value // 1000, nanos=value % 1000 * 1_000_000)


def uint(value: int) -> UInt32Value:
    return UInt32Value(value=value)


def boolean(value: bool) -> BoolValue:
    return BoolValue(value=value)
