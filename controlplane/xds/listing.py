"""GET /v1/models, answered by Envoy itself, so that it needs no process of ours and lists only what a key may use."""

from functools import lru_cache

from envoy.config.core.v3 import base_pb2 as base
from envoy.config.route.v3 import route_components_pb2 as route_pb
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as lua
from google.protobuf.any_pb2 import Any as AnyProto

from controlplane.plan.ir import Plan
from controlplane.xds import names
from controlplane.xds.keys import Allowed, grants, restricted
from controlplane.xds.protos import pack
from controlplane.xds.scripts import quoted, script


def route(plan: Plan) -> route_pb.Route:
    """The route whose Lua code holds the listing; the direct response is never reached."""
    code = lua.LuaPerRoute(source_code=base.DataSource(inline_string=_source(plan)))
    made = route_pb.Route(match={"prefix": "/"}, direct_response={"status": 404})
    made.typed_per_filter_config[names.FACTS].CopyFrom(pack(route_pb.FilterConfig(config=AnyProto())))
    made.typed_per_filter_config[names.LISTING_FILTER].CopyFrom(pack(route_pb.FilterConfig(config=pack(code))))
    return made


def _source(plan: Plan) -> str:
    rows = (f"{r.name}\t{r.groups[0][0].provider}\n" for r in plan.routes)
    access = _access((*restricted(plan.keys), *grants(plan).lists))
    data = f"local MODELS = {quoted(''.join(rows))}\nlocal ACCESS = {access}\n"
    return data + script("models")


@lru_cache(maxsize=2)  # most edits leave the keys alone
def _access(allowed: Allowed) -> str:
    return quoted("".join(f"{identity}\t" + "\t".join(models) + "\n" for identity, models in allowed))
