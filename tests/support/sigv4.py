"""AWS's signature of a request, made anew: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""

import hashlib
import hmac
import re
from urllib.parse import quote

from tests.support.wired import Asked

_HEADER = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})")


def is_signed(asked: Asked, key_id: str, secret: str) -> bool:
    """Whether the request bears the right signature, over its body and host, too."""
    found = _HEADER.fullmatch(asked.headers["authorization"])
    assert found, asked.headers["authorization"]
    who, scope, names, signature = found.groups()
    assert who == key_id
    assert {"host", "x-amz-date"} <= set(names.split(";"))
    path, _, query = asked.path.partition("?")
    body = hashlib.sha256(asked.body).hexdigest()
    headers = "".join(f"{name}:{' '.join(asked.headers[name].split())}\n" for name in names.split(";"))
    canonical = "\n".join(["POST", quote(path, safe="/-._~"), query, headers, names, body])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", asked.headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest() == signature
