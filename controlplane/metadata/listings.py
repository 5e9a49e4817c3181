"""What providers tell of their models, in each API's own words -> facts. Pure: JSON in, facts out.

A listing is not to be trusted: numbers have bounds, words are those that are known, and whatever else it says is left.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from controlplane.metadata import facts
from controlplane.metadata.entries import Entry, anthropic, cohere, gemini, ollama, onnx, openai
from controlplane.metadata.facts import Fact, Layer, Source
from extproc.usage.price_book import undated_name


@dataclass(frozen=True, slots=True)
class Api:
    """How a kind of provider is asked. `path` follows the base path of its API; `of`: where its answer has the list.

    `name`: the member of an entry that names the model. `more`: the members of the answer that tell of further pages.
    """

    path: str
    of: str
    name: str
    read: Callable[[Entry], Iterator[tuple[str, Any]]]
    more: tuple[str, ...] = ()
    layer: Layer = Layer.PROVIDER


_OPENAI = Api("/models", "data", "id", openai)
APIS: Mapping[str, Api] = {
    "openai": _OPENAI,
    "huggingface": _OPENAI,
    "openrouter": _OPENAI,
    "vllm": _OPENAI,
    # https://docs.claude.com/en/api/models-list
    "anthropic": Api("/models?limit=1000", "data", "id", anthropic, ("has_more",)),
    # https://ai.google.dev/api/models
    "gemini": Api("/models?pageSize=1000", "models", "name", gemini, ("nextPageToken",)),
    # https://docs.cohere.com/v1/reference/list-models
    "cohere": Api("/v1/models?page_size=1000", "models", "name", cohere, ("next_page_token",)),
    # https://github.com/ollama/ollama/blob/main/docs/api.md#list-local-models
    "ollama": Api("/tags", "models", "name", ollama),
    "onnx": Api("/models", "models", "model", onnx, layer=Layer.SIDECAR),
}
# Services that the gateway runs are asked beside their API.
_BESIDE = frozenset({"onnx"})


class Listing(NamedTuple):
    """What a provider tells of the models that were asked about. `missing`: those that it does not have.

    `total`: how many models it has.
    """

    models: Mapping[str, tuple[Fact, ...]]
    missing: tuple[str, ...]
    total: int


def path(kind: str, base_path: str) -> str:
    """What to GET of a provider."""
    if kind in _BESIDE:
        return APIS[kind].path
    if kind == "cohere":  # its second version has no listing
        base_path = base_path.removesuffix("/v2")
    return base_path + APIS[kind].path


def read(kind: str, provider: str, document: Any, wanted: Iterable[str]) -> Listing:
    """The listing of a provider. Raises ValueError for a document that is none."""
    api, named = APIS[kind], _entries(kind, document)
    undated = {short: entry for name, entry in named.items() if (short := undated_name(name))}
    service = api.layer is Layer.SIDECAR
    source = Source(api.layer, f"service of {provider}" if service else f"listing of {provider}")
    models: dict[str, tuple[Fact, ...]] = {}
    missing = []
    for model in dict.fromkeys(wanted):
        found = next((known[name] for known in (named, undated) for name in _names(kind, model) if name in known), None)
        if found is None:
            missing.append(model)
        else:
            models[model] = tuple(Fact(name, value, source) for name, value in api.read(Entry(found)))
    whole = not any(document.get(name) for name in api.more)  # a page that was not asked for may have them
    return Listing(models, tuple(missing) if whole else (), len(named))


def entries_of(kind: str, document: Any, wanted: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """The entries of models, each with its name there; none in a document that is no listing."""
    try:
        named = _entries(kind, document)
    except ValueError:
        return []
    found = (next((name for name in _names(kind, model) if name in named), None) for model in wanted)
    return [(name, named[name]) for name in dict.fromkeys(found) if name is not None]


def of_show(shown: Any) -> dict[str, Any]:
    """What counts of an answer of Ollama's `/api/show`, which also has licences and templates."""
    answer = shown if isinstance(shown, dict) else {}
    details = answer.get("model_info")
    known = details.items() if isinstance(details, dict) else ()
    window = (value for name, value in known if name.endswith(".context_length"))
    return {
        "context_length": next(iter(window), None),
        "capabilities": answer.get("capabilities"),
        "parameters": answer.get("parameters"),
    }


def _entries(kind: str, document: Any) -> dict[str, dict[str, Any]]:
    api = APIS[kind]
    entries = document.get(api.of) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"a JSON object with a list `{api.of}` is expected")
    return {_plain(entry[api.name]): entry for entry in entries if _named(entry, api.name)}


def _named(entry: Any, name: str) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get(name), str)


def _plain(name: str) -> str:
    return name.removeprefix("models/")


def _names(kind: str, model: str) -> tuple[str, ...]:
    """What a listing may call a model: without the tag, or the variant, that some APIs add to names."""
    model = _plain(model)
    if kind == "ollama" and ":" not in model:
        return model, f"{model}:latest"
    return (model, model.partition(":")[0]) if kind == "openrouter" else (model,)


def changed(told: Mapping[str, tuple[Fact, ...]], before: Mapping[str, facts.Told]) -> dict[str, facts.Told]:
    """Facts by model; those that are as they were stay the same value, by which others are looked up."""
    return {
        model: before[model] if model in before and before[model].facts == said else facts.Told(said)
        for model, said in told.items()
    }
