"""Makes an ONNX model folder of a Hugging Face folder with safetensors weights, without torch.

    python -m sidecars.onnx.convert SOURCE DESTINATION

Encoders of the families `bert`, `roberta`, `xlm-roberta`, `camembert` and `distilbert`, bare or with a head that
classifies sequences. The graph is built node by node from the weights, in standard operators of opset 20.
"""

from sidecars.onnx.convert.package import Converted, convert
from sidecars.onnx.convert.weights import ConvertError

__all__ = ["ConvertError", "Converted", "convert"]
