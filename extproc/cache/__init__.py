"""The store of the response cache: a process of its own, which the workers of rules share, and their way to it."""

# The environment variable that the store is told the URL of Redis by. It stands here, where nothing heavy is imported.
URL_ENV = "HEADGATE_REDIS_URL"
