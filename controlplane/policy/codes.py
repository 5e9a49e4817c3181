"""Every code that a diagnostic can bear: its meaning and the next step. Made into docs/reference/diagnostics.md."""

from collections.abc import Mapping
from types import MappingProxyType

CODES: Mapping[str, str] = MappingProxyType(
    {
        # The file as YAML.
        "not-utf8": "The file holds bytes that are not UTF-8. Save it as UTF-8.",
        "invalid-yaml": "The text is not YAML. The message says what the parser met; fix the line, or quote the text.",
        "empty-policy": "The file says nothing. Begin with `version: 1`, `providers` and `models`.",
        "not-a-mapping": "The file is a list or a single value. A policy is a mapping of fields.",
        "several-documents": "A line `---` begins a second document. Keep one document per file.",
        "anchor": "Anchors, aliases and merge keys are not part of the language. Write the value where it is used.",
        "tag": "YAML tags are not part of the language. Write the value alone, in quotes if it must be text.",
        "complex-key": "A key is no plain name. Write `name: value`.",
        "duplicate-key": "A name stands twice in one mapping. Remove or rename one of the two.",
        "too-deep": "Values are nested deeper than any policy is. Look for a missing bracket.",
        # Fields and values.
        "unknown-field": "The mapping has no such field. Take the suggested name, or one of those listed.",
        "missing-field": "A required field or section is absent or empty. Add it.",
        "empty-value": "A field has no value. Give it one, or remove the field.",
        "wrong-type": "The value has another type than the field, such as text for a number. Write what is expected.",
        "unknown-value": "The field takes one of a few words, and this is none of them. Take one of those listed.",
        "invalid-value": "The value does not follow its grammar (duration, size, rate, address, URL, date, name).",
        "invalid-name": "An entry's name has characters that names cannot have, or is too long. Rename the entry.",
        "out-of-range": "The value is too small, too large, too short, or has a wrong character. Keep to the bounds.",
        # Secrets.
        "literal-secret": "A secret stands in the policy itself. Write `{env: NAME}` or `{file: path}`.",
        "invalid-secret": "A reference to a secret has exactly one of `env` and `file`. Write one of them.",
        "absent-secret": "The secret cannot be read, is empty, or fits into no header. Export it or fix the file.",
        "invalid-webhook": "A webhook's secret is `whsec_` and base64 of 24 to 64 bytes, its URL is http or https.",
        "absent-prices": "The file of prices cannot be read. Make it with `ctl prices import FILE`, or fix the path.",
        "invalid-prices": "The file of prices is not of Headgate's form. Make it with `ctl prices import FILE`.",
        "invalid-jwks": "The file is no set of public keys (JWK set). Save what the issuer's `jwks_uri` answers.",
        "shared-secret": "Two keys or users have the same secret, so nobody can tell them apart. Give each its own.",
        # Names that refer to each other.
        "unknown-name": "Nothing of this kind has this name. Take the suggested name, or add the entry.",
        "wildcard-reference": "A model refers to a pattern, which stands for many models. Name one model or provider.",
        "cycle": "Models refer to each other in a circle. Let one of them name a provider.",
        "nested-group": "A weighted group names a model with several targets. Name models with one target only.",
        "matches-nothing": "Warning: a key or rule names a model or key that the policy lacks. Correct or remove it.",
        "too-many-targets": "A model comes down to more targets than it may have. Name fewer, or fewer models of many.",
        "issued-key-needs": "An issued key bears a limit or budget that the policy lacks. Put it back, or revoke it.",
        "issued-key-name": "An issued key has the name of a key of the policy. Rename this, or revoke the issued one.",
        "one-amount": "A budget has one of `usd`, `tokens`, `requests`; a limit has one at least. Write what is meant.",
        "one-action": "An entry of a rule's `do` is one action. Write a list of entries with one each.",
        "invalid-rule": "The actions of a rule cannot be put together. The message says which and why.",
        "unfit-limit": "Settings of a limit, or a limit and its place, do not fit. The message says what to change.",
        "unfit-budget": "Two settings of a budget do not fit together. The message says what to change.",
        "fleet-without-redis": "Counters of a fleet are kept in Redis. Set `gateway.redis`, or write `scope: node`.",
        "invalid-redis": "`gateway.redis` holds no URL of a Redis. It begins with redis://, rediss:// or unix://.",
        "invalid-ledger": "`gateway.ledger` holds no URL that begins with sqlite:/// or postgresql://. Correct it.",
        "redis-unused": "Warning: nothing of the policy has `scope: fleet`, so Redis is not used. Leave it out.",
        "duplicate-item": "An entry of a list stands there twice. Remove one of the two.",
        # What fits together.
        "open-gateway": "Warning: without keys everyone may use every model. Add `keys` before others can reach it.",
        "admin-without-token": "The admin API would be open to the network. Listen on loopback, or set `admin.token`.",
        "two-scopes": "A user of the admin API has a team and an organization. Name one of them.",
        "same-address": "Clients and the admin API have the same address. Give them two.",
        "cors-any-with-credentials": "Browsers refuse credentials for any origin. Name origins, or drop `credentials`.",
        "keys-without-https": "An issuer's keys would come over plain HTTP. Use an https URL, or keep them in a file.",
        "tls-without-https": "TLS settings need an https URL. Change the URL, or remove the settings.",
        "half-a-certificate": "A client certificate needs both `cert` and `key`. Add the other one.",
        "two-credentials": "A provider has two credentials, and a request bears one. Remove one of them.",
        "experiment-does-not-hold": "What is under trial would change answers with this Envoy. Remove it.",
        "mixed-endpoints": "Endpoints mix IP addresses and host names. Use one kind, or two providers.",
        "retention-order": "Sums are kept at least as long as what they sum up, minutes 32 days. Lengthen the coarser.",
        "idle-too-short": "`idle` runs while the first byte is awaited. Make it at least `first_byte`.",
    }
)
