"""Has a wheel hold Envoy's module, built for the machine that it is built on."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("envoy", "native")


class Module(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":  # in a checkout the Makefile builds it
            return
        runpy.run_path(str(Path(self.root, NATIVE, "build.py")))["build"]()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        module = str(NATIVE / "libheadgate.so")
        build_data["force_include"][module] = module
