"""Matcher trees: lookups whose cost does not grow with what they hold.

https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/advanced/matching/matching_api
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2 as network_inputs
from envoy.extensions.matching.input_matchers.ip.v3 import ip_pb2 as ip
from envoy.type.matcher.v3 import http_inputs_pb2 as inputs
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3 import matcher_pb2 as xds
from xds.type.matcher.v3 import regex_pb2, string_pb2

from controlplane.xds.protos import pack, uint

Matcher: TypeAlias = Any  # xds.type.matcher.v3.Matcher; xds-protos ships no types
OnMatch: TypeAlias = Any  # Matcher.OnMatch
Predicate: TypeAlias = Any  # Matcher.MatcherList.Predicate

_Predicate = xds.Matcher.MatcherList.Predicate


def header(name: str) -> TypedExtensionConfig:
    """The value of a request header as a matching input; `:path` and `:method` are headers too."""
    return TypedExtensionConfig(name=name, typed_config=pack(inputs.HttpRequestHeaderMatchInput(header_name=name)))


def action(name: str, message: Message) -> OnMatch:
    return xds.Matcher.OnMatch(action=TypedExtensionConfig(name=name, typed_config=pack(message)))


def then(matcher: Matcher) -> OnMatch:
    return xds.Matcher.OnMatch(matcher=matcher)


def regex(name: str, pattern: str) -> Predicate:
    """The whole value of a header matches an RE2 pattern; an absent header does not."""
    matcher = string_pb2.StringMatcher(
        safe_regex=regex_pb2.RegexMatcher(google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex=pattern)
    )
    return _Predicate(single_predicate=_Predicate.SinglePredicate(input=header(name), value_match=matcher))


def present(name: str) -> Predicate:
    """A header has a value, whatever bytes are in it: a name with a line feed must not look absent."""
    return regex(name, "(?s).+")


def contains(name: str, part: str) -> Predicate:
    """A header's value holds a text."""
    matcher = string_pb2.StringMatcher(contains=part)
    return _Predicate(single_predicate=_Predicate.SinglePredicate(input=header(name), value_match=matcher))


def within(networks: Iterable[str]) -> Predicate:
    """The client's address lies in one of these networks: one look into a trie, whatever their number."""
    config = ip.Ip(stat_prefix="addresses")
    for network in networks:
        address, _, length = network.partition("/")
        config.cidr_ranges.add(address_prefix=address, prefix_len=uint(int(length)))
    source = TypedExtensionConfig(name="source-ip", typed_config=pack(network_inputs.SourceIPInput()))
    custom = TypedExtensionConfig(name="envoy.matching.matchers.ip", typed_config=pack(config))
    return _Predicate(single_predicate=_Predicate.SinglePredicate(input=source, custom_match=custom))


def every(*predicates: Predicate) -> Predicate:
    return _Predicate(and_matcher=_Predicate.PredicateList(predicate=predicates))


def either(*predicates: Predicate) -> Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return _Predicate(or_matcher=_Predicate.PredicateList(predicate=predicates))


def negate(predicate: Predicate) -> Predicate:
    return _Predicate(not_matcher=predicate)


def first_of(cases: list[tuple[Predicate, OnMatch]], otherwise: OnMatch | None = None) -> Matcher:
    """Tries predicates in order. Keep the list short: its cost is linear."""
    fields = [xds.Matcher.MatcherList.FieldMatcher(predicate=p, on_match=m) for p, m in cases]
    return xds.Matcher(matcher_list=xds.Matcher.MatcherList(matchers=fields), on_no_match=otherwise)


def lookup(
    name: str, exact: Mapping[str, OnMatch], prefixes: Mapping[str, OnMatch], otherwise: OnMatch | None
) -> Matcher:
    """Looks a header up: the exact value, else the longest prefix, else `otherwise`.

    The empty prefix stands for any value. Envoy refuses empty maps and empty prefixes, so each layer exists
    only where it holds something.
    """
    fallback = prefixes.get("", otherwise)
    named = {prefix: on_match for prefix, on_match in prefixes.items() if prefix}
    if named:
        fallback = then(_tree(name, "prefix_match_map", named, fallback))
    if exact:
        return _tree(name, "exact_match_map", exact, fallback)
    if fallback is None or not fallback.HasField("matcher"):
        return first_of([(present(name), fallback or xds.Matcher.OnMatch())], fallback)
    return fallback.matcher


def _tree(name: str, kind: str, entries: Mapping[str, OnMatch], otherwise: OnMatch | None) -> Matcher:
    tree = xds.Matcher.MatcherTree(input=header(name))
    target = getattr(tree, kind).map
    for value, on_match in entries.items():
        target[value].CopyFrom(on_match)
    return xds.Matcher(matcher_tree=tree, on_no_match=otherwise)
