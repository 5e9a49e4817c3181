"""The filters of the dynamic module in envoy/native, which every Envoy has to find as libheadgate.so."""

from envoy.extensions.dynamic_modules.v3 import dynamic_modules_pb2 as modules
from envoy.extensions.filters.http.dynamic_modules.v3 import dynamic_modules_pb2 as filters
from google.protobuf import wrappers_pb2 as wrappers

from controlplane.xds import names
from controlplane.xds.protos import pack

TYPE = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"


def filter_of(kind: str, text: str = "") -> filters.DynamicModuleFilter:
    """A filter of that kind; the text is what it is to know, in the kind's own form."""
    return filters.DynamicModuleFilter(
        # Unloading code that a stream may still run gains nothing.
        dynamic_module_config=modules.DynamicModuleConfig(name=names.MODULE, do_not_close=True),
        filter_name=kind,
        filter_config=pack(wrappers.StringValue(value=text)) if text else None,
    )
