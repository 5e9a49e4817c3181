from tests.support.redis import shared_redis

__all__ = ["shared_redis"]
