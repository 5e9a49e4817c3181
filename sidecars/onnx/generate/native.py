"""onnxruntime-genai, called by its C interface (`ort_genai_c.h`).

Its Python module keeps the interpreter's lock while a model runs, which would stop the whole service for each token and
for seconds at a long prompt. `ctypes` gives the lock away. Everything here blocks, and runs beside the event loop; one
object is for one thread at a time.
"""

import ctypes
import os
from collections.abc import Mapping
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sidecars.onnx.pooling import Floats

_FLOAT32 = 1  # OgaElementType_float32
_OUT = POINTER(c_void_p)
# Every one of them returns null, or what tells the error.
_CALLS: Mapping[str, tuple[Any, ...]] = {
    "OgaCreateConfig": (c_char_p, _OUT),
    "OgaConfigOverlay": (c_void_p, c_char_p),
    "OgaConfigClearProviders": (c_void_p,),
    "OgaConfigAppendProvider": (c_void_p, c_char_p),
    "OgaConfigSetProviderOption": (c_void_p, c_char_p, c_char_p, c_char_p),
    "OgaCreateModelFromConfig": (c_void_p, _OUT),
    "OgaCreateGeneratorParams": (c_void_p, _OUT),
    "OgaGeneratorParamsSetSearchNumber": (c_void_p, c_char_p, c_double),
    "OgaGeneratorParamsSetSearchBool": (c_void_p, c_char_p, c_bool),
    "OgaGeneratorParamsSetGuidance": (c_void_p, c_char_p, c_char_p, c_bool),
    "OgaCreateGenerator": (c_void_p, c_void_p, _OUT),
    "OgaGenerator_AppendTokens": (c_void_p, POINTER(c_int32), c_size_t),
    "OgaGenerator_GenerateNextToken": (c_void_p,),
    "OgaGenerator_GetNextTokens": (c_void_p, POINTER(POINTER(c_int32)), POINTER(c_size_t)),
    "OgaGenerator_GetLogits": (c_void_p, _OUT),
    "OgaGenerator_SetLogits": (c_void_p, c_void_p),
    "OgaCreateTensorFromBuffer": (c_void_p, POINTER(c_int64), c_size_t, ctypes.c_int, _OUT),
    "OgaTensorGetData": (c_void_p, _OUT),
}
_DESTROYS = ("Result", "Config", "Model", "GeneratorParams", "Generator", "Tensor")


class NativeError(Exception):
    """What the runtime says of a call that failed."""


class Model:
    """A loaded model. Lives as long as it or one of its generators is in use."""

    def __init__(self, folder: Path, providers: list[Any], options: Mapping[str, Any], vocabulary: int) -> None:
        """`providers` are as onnxruntime takes them, `options` as `session_options` of a genai_config.json.

        Raises NativeError, ImportError.
        """
        self._library = library()
        self._vocabulary = vocabulary
        config = self._made("Config", "OgaCreateConfig", str(folder).encode())
        self._call("OgaConfigClearProviders", config.pointer)
        for name, given in providers:
            self._call("OgaConfigAppendProvider", config.pointer, name.encode())
            for option, value in given.items():
                text = str(value).encode()
                self._call("OgaConfigSetProviderOption", config.pointer, name.encode(), option.encode(), text)
        overlay = {"model": {"decoder": {"session_options": options}}}
        self._call("OgaConfigOverlay", config.pointer, orjson.dumps(overlay))
        self._model = self._made("Model", "OgaCreateModelFromConfig", config.pointer)

    def generator(self, search: Mapping[str, float], guidance: tuple[str, str] | None) -> "Generator":
        """One sequence with a cache of its own. `search`: the runtime's search options; `guidance`: the kind of a
        grammar, and itself. Raises NativeError."""
        params = self._made("GeneratorParams", "OgaCreateGeneratorParams", self._model.pointer)
        for name, value in search.items():
            kind = "Bool" if isinstance(value, bool) else "Number"
            self._call(f"OgaGeneratorParamsSetSearch{kind}", params.pointer, name.encode(), value)
        if guidance is not None:
            kind, text = guidance
            self._call("OgaGeneratorParamsSetGuidance", params.pointer, kind.encode(), text.encode(), False)
        made = self._made("Generator", "OgaCreateGenerator", self._model.pointer, params.pointer)
        return Generator(self._library, made, self._vocabulary)

    def close(self) -> None:
        self._model.close()

    def _call(self, name: str, *given: Any) -> None:
        getattr(self._library, name)(*given)

    def _made(self, kind: str, name: str, *given: Any) -> "_Owned":
        return _make(self._library, kind, name, *given)


class Generator:
    """A sequence that grows: by what is appended, and by what is generated."""

    def __init__(self, library: ctypes.CDLL, generator: "_Owned", vocabulary: int) -> None:
        self._library = library
        self._generator = generator
        self._vocabulary = vocabulary

    def append(self, ids: list[int]) -> None:
        """Feeds tokens. Raises NativeError."""
        given = (c_int32 * len(ids))(*ids)
        self._library.OgaGenerator_AppendTokens(self._generator.pointer, given, len(ids))

    def logits(self) -> Floats:
        """Of the next token, a copy; runs the model for the last token where that was not done. Raises NativeError."""
        tensor = _make(self._library, "Tensor", "OgaGenerator_GetLogits", self._generator.pointer)
        data = c_void_p()
        self._library.OgaTensorGetData(tensor.pointer, ctypes.byref(data))
        values = ctypes.cast(data, POINTER(ctypes.c_float))
        found: Floats = np.ctypeslib.as_array(values, (self._vocabulary,)).copy()
        tensor.close()
        return found

    def set_logits(self, row: Floats) -> None:
        """Has the next token chosen of others. Raises NativeError."""
        row = np.ascontiguousarray(row, np.float32)
        shape = (c_int64 * 3)(1, 1, self._vocabulary)
        tensor = _make(
            self._library, "Tensor", "OgaCreateTensorFromBuffer", row.ctypes.data_as(c_void_p), shape, 3, _FLOAT32
        )
        self._library.OgaGenerator_SetLogits(self._generator.pointer, tensor.pointer)
        tensor.close()

    def next(self) -> int:
        """Chooses the next token by the search options. Raises NativeError."""
        self._library.OgaGenerator_GenerateNextToken(self._generator.pointer)
        found, count = POINTER(c_int32)(), c_size_t()
        self._library.OgaGenerator_GetNextTokens(self._generator.pointer, ctypes.byref(found), ctypes.byref(count))
        return int(found[0])

    def close(self) -> None:
        """Gives the cache back."""
        self._generator.close()


class _Owned:
    """What the runtime has made, and is to be told when nobody needs it any more."""

    def __init__(self, pointer: c_void_p, destroy: Any) -> None:
        self.pointer = pointer
        self._destroy = destroy

    def close(self) -> None:
        if self.pointer:
            self._destroy(self.pointer)
            self.pointer = c_void_p()

    def __del__(self) -> None:
        self.close()


def _make(library: ctypes.CDLL, kind: str, name: str, *given: Any) -> _Owned:
    made = c_void_p()
    getattr(library, name)(*given, ctypes.byref(made))
    return _Owned(made, getattr(library, f"OgaDestroy{kind}"))


@cache
def library() -> ctypes.CDLL:
    """Raises ImportError."""
    # Packages of the runtime report what they do to their maker unless told otherwise before they are loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime_genai  # noqa: PLC0415 -- after the environment is set; it finds onnxruntime for the library

    (file,) = Path(onnxruntime_genai.__file__).parent.glob("libonnxruntime-genai.*")
    library = ctypes.CDLL(str(file))
    for kind in _DESTROYS:
        destroy = getattr(library, f"OgaDestroy{kind}")
        destroy.argtypes, destroy.restype = (c_void_p,), None
    library.OgaResultGetError.argtypes, library.OgaResultGetError.restype = (c_void_p,), c_char_p

    def checked(result: int | None, _function: Any, _given: Any) -> None:
        if result:
            text = library.OgaResultGetError(result).decode(errors="replace")
            library.OgaDestroyResult(result)
            raise NativeError(text)

    for name, kinds in _CALLS.items():
        function = getattr(library, name)
        function.argtypes, function.restype, function.errcheck = kinds, c_void_p, checked
    return library
