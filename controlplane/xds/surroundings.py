"""What a compile needs to know of the machine it serves on, passed in as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`ca_bundle`: PEM file of the certificate authorities trusted by default. `usage_log`: the file Envoy writes its
    access log to, `rules_log`: that for what rules noted of requests. `usage_socket`: where clients' questions about
    their usage are answered. `limits_socket`: where the rate limit service listens. `rules_socket`: where the workers
    of rules listen, `{}` for their number. `inside_socket`: where Envoy serves requests of the gateway itself.
    `listings_socket`: where it asks providers for their models.
    `service_socket`: where the services listen that providers are, `{}` for the name of the socket.
    """

    ca_bundle: str
    service_socket: str = "/run/headgate/{}.sock"
    usage_log: str = "/dev/null"
    rules_log: str = "/dev/null"
    usage_socket: str = "/run/headgate/usage.sock"
    rules_socket: str = "/run/headgate/rules-{}.sock"
    limits_socket: str = "/run/headgate/limits.sock"
    inside_socket: str = "/run/headgate/inside.sock"
    listings_socket: str = "/run/headgate/listings.sock"
