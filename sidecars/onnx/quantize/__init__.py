"""Makes an int8 model folder of a float32 one, and measures what that costs and gains.

`rewrite` changes the graph, `calibrate` looks at the numbers in it, `quality` and `pace` compare the two models, and
`package` does all of it and writes the folder. Needs `onnx` and `onnxruntime`, and runs on a CPU.
"""

from sidecars.onnx.quantize.package import Limits, PoorQualityError, Report, quantize
from sidecars.onnx.quantize.rewrite import QuantizeError

__all__ = ["Limits", "PoorQualityError", "QuantizeError", "Report", "quantize"]
