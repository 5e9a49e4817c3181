"""The endpoints that carry a model, below /v1: OpenAI's, and Anthropic's."""

ENDPOINTS = (
    "chat/completions", "completions", "embeddings", "responses", "moderations", "rerank", "classify", "nli",
    "images/generations", "images/edits", "images/variations",
    "audio/speech", "audio/transcriptions", "audio/translations",
)  # fmt: skip

MESSAGES = ("messages", "messages/count_tokens")

TOKENIZE = "tokenize"  # answered by the gateway itself

PATHS = tuple(f"/v1/{endpoint}" for endpoint in (*ENDPOINTS, *MESSAGES))


def paths_of(pattern: str) -> frozenset[str]:
    """The paths that a pattern means: one, or all that begin so where it ends in `*`."""
    if pattern.endswith("*"):
        return frozenset(path for path in PATHS if path.startswith(pattern[:-1]))
    return frozenset({pattern}) & frozenset(PATHS)
