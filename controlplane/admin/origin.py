"""Where a call of the admin API came from."""

from starlette.requests import Request


def origin(request: Request) -> str:
    """The caller's address; headers that claim another one are not believed."""
    return request.client.host if request.client else "unknown"
