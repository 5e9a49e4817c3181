"""The store of the response cache: a process of its own, which the workers of rules share, and their way to it."""
