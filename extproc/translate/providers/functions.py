"""Tools, their calls and pictures in OpenAI's form, which Cohere and Ollama use, too."""

from extproc.translate.jsontext import Object
from extproc.translate.neutral import Document, Image, Tool, ToolCall


def function_tool(tool: Tool, parameters: Object | None, *, strict: bool | None = None) -> Object:
    function: Object = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if parameters is not None:
        function["parameters"] = parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def function_call(call: ToolCall, arguments: str | Object) -> Object:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def image_url(image: Image) -> Object:
    url: Object = {"url": url_of(image)}
    if image.detail:
        url["detail"] = image.detail
    return {"type": "image_url", "image_url": url}


def url_of(part: Image | Document) -> str:
    """Its URL, which may hold the data itself."""
    return part.url or f"data:{part.media_type};base64,{part.data}"
