"""What the policy itself says about a model, as facts."""

from functools import lru_cache

from controlplane.metadata import facts
from controlplane.metadata.facts import OPAQUE, UNSUPPORTED, Fact, Layer, Source, Told
from controlplane.plan.ir import Said
from controlplane.policy.about import ParameterAbout
from extproc.stages.parameters import Kind, Parameter

_PLAIN = (facts.CONTEXT, facts.OUTPUT, facts.INPUTS, facts.OUTPUTS, facts.CAPABILITIES)


@lru_cache(maxsize=4096)
def told(said: Said) -> Told:
    """The facts of a model's `about`."""
    about = said.about

    def source(*steps: str) -> Source:
        return Source(Layer.POLICY, "policy: " + ".".join(("models", said.model, "about", *steps)))

    values = {name: getattr(about, name) for name in _PLAIN}
    found = [
        Fact(name, tuple(value) if isinstance(value, list) else value, source(name))
        for name, value in values.items()
        if value is not None
    ]
    if about.deprecation is not None:
        found.append(Fact(facts.DEPRECATION, about.deprecation, source("deprecation")))
    for name, parameter in about.parameters.items():
        found.append(facts.parameter(name, _parameter(parameter), source("parameters", name)))
        if isinstance(parameter, ParameterAbout) and parameter.default is not None:
            found.append(facts.default(name, parameter.default, source("parameters", name)))
    return Told(tuple(found))


def _parameter(said: ParameterAbout | str) -> Parameter:
    if isinstance(said, str):
        return UNSUPPORTED if said == "unsupported" else OPAQUE
    if said.fixed is not None:
        return Parameter(Kind.READ_ONLY, value=said.fixed)
    least, most = said.range or (None, None)
    return Parameter(Kind.MUTABLE, least=least, most=most)
