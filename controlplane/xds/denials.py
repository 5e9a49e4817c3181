"""Denials -> one small extension resource, pushed alone: a spent budget touches neither routes nor keys."""

from collections.abc import Iterable

import orjson
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as delegate
from envoy.extensions.filters.http.composite.v3 import composite_pb2 as composite
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as mutation
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as lua

from controlplane.plan.accounts import LIMIT
from controlplane.plan.denials import Denial
from controlplane.xds import errors, matchers, names
from controlplane.xds.protos import pack
from controlplane.xds.scripts import quoted, script

TYPE = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"


def lower(denials: tuple[Denial, ...]) -> extension.TypedExtensionConfig:
    """The filter that answers or downgrades; one that does nothing when nothing is spent."""
    config = pack(_filter(denials)) if denials else pack(mutation.HeaderMutation())
    return extension.TypedExtensionConfig(name=names.SPENT, typed_config=config)


def _filter(denials: tuple[Denial, ...]) -> delegate.ExtensionWithMatcher:
    """Others than those concerned pass by a hash lookup, without running the script."""
    return delegate.ExtensionWithMatcher(
        xds_matcher=_concerned(denials),
        extension_config=extension.TypedExtensionConfig(name="spent", typed_config=pack(composite.Composite())),
    )


def _concerned(denials: tuple[Denial, ...]) -> matchers.Matcher:
    made = extension.TypedExtensionConfig(name="answer", typed_config=pack(_script(denials)))
    run = matchers.action("run", composite.ExecuteFilterAction(typed_config=made))
    clients = {denial.identity: run for denial in denials if denial.identity and not denial.outside}
    outside = {denial.identity: run for denial in denials if denial.outside}
    if clients or outside:
        return matchers.lookup(names.CLIENT, clients, outside, None)
    return matchers.first_of([(matchers.negate(matchers.present(names.CLIENT)), run)])  # the open gateway: everyone


def _script(denials: tuple[Denial, ...]) -> lua.Lua:
    made = lua.Lua()
    own, outside = (_table(each for each in denials if each.outside is kind) for kind in (False, True))
    made.default_source_code.inline_string = f"local DENIALS = {own}\nlocal OUTSIDE = {outside}\n{script('spent')}"
    return made


def _table(denials: Iterable[Denial]) -> str:
    return "{\n" + ",\n".join(f"[{quoted(denial.identity)}] = {_entry(denial)}" for denial in denials) + "}"


def _entry(denial: Denial) -> str:
    if denial.downgrade is not None:
        return f"{{downgrade = {quoted(denial.downgrade)}}}"
    body = orjson.dumps(_answer(denial)).decode()
    rate = "true" if denial.rate else "false"
    return f"{{until_s = {denial.until_us / 1e6:.3f}, rate = {rate}, body = {quoted(body)}}}"


def _answer(denial: Denial) -> dict[str, object]:
    if denial.rate:
        name = denial.name.removeprefix(LIMIT)
        message = f"Rate limit reached: the tokens of `{name}` are spent. Wait for `retry-after` seconds and try again."
        return errors.body(message, "rate_limit_error", "rate_limit_exceeded")
    message = f"The budget `{denial.name}` is spent. It is available again at the time that `retry-after` tells."
    return errors.body(message, "insufficient_quota", "insufficient_quota")
