"""Servers of vLLM that the gateway starts: which process, and at which socket. Pure."""

from dataclasses import dataclass
from hashlib import blake2b

from controlplane.policy.launch import Launch


@dataclass(frozen=True, slots=True)
class Server:
    """A server to run for one provider. `name` is that of the process, its log and its record."""

    provider: str
    told: Launch

    @property
    def name(self) -> str:
        return f"vllm-{self.provider}"

    @property
    def socket(self) -> str:
        """Its socket's name, without an ending: another one whenever it must be started anew.

        So an edit takes the old server out of the endpoints at once, and it ends what it has without getting more.
        """
        told = self.told
        variables = sorted((name, str(value)) for name, value in told.env.items())
        relevant = (self.provider, told.model, told.python, told.served, tuple(told.args), variables)
        return f"vllm~{blake2b(repr(relevant).encode(), digest_size=5).hexdigest()}"
