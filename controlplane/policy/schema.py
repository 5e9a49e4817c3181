"""The JSON Schema of the policy language, for editors. `make schema` writes schemas/policy.schema.json."""

from typing import Any

from controlplane.policy.language import PolicySpec


def json_schema() -> dict[str, Any]:
    schema = PolicySpec.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "headgate/policy/1", **schema}
