from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.support.mock import MockProvider


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProvider]:
    with MockProvider() as started:
        yield started


@pytest.fixture
def http(mock: MockProvider) -> Iterator[httpx.Client]:
    """A plain client whose paths begin at the host."""
    with httpx.Client(base_url=mock.base_url.removesuffix("/v1"), timeout=60) as client:
        yield client


@pytest.fixture
def client(mock: MockProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=mock.base_url, api_key="sk-test", max_retries=0, timeout=60) as made:
        yield made
