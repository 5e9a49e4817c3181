"""multipart/form-data (RFC 7578), whole in memory.

The standard library's email parser splits bodies line by line, which would block the loop for a second on a 32 MiB
upload; here only the few header lines of each part go through it.
"""

from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from sidecars.mock.call import Body, File, digest
from sidecars.mock.errors import MockError


def read_form(content_type: str, raw: bytes) -> Body:
    """The fields and files of a form. A field given twice or named `x[]` is a list under the name given."""
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise MockError(400, f"Expected multipart/form-data with a boundary, got '{content_type}'.")
    sections = (b"\r\n" + raw).split(b"\r\n--" + boundary.encode("latin-1"))
    if len(sections) < 2 or not sections[-1].startswith(b"--"):
        raise MockError(400, "The multipart body does not end with its boundary.")
    data: dict[str, Any] = {}
    files: list[File] = []
    identity: list[bytes] = []  # not the raw body: the client's boundary is random
    for section in sections[1:-1]:
        name, filename, content = _part(section)
        identity += name.encode(), content
        if filename is not None:
            files.append(File(name, filename, content))
        else:
            _add(data, name, content)
    return Body(digest(*identity), data, tuple(files))


def _part(section: bytes) -> tuple[str, str | None, bytes]:
    head, found, content = section.partition(b"\r\n\r\n")
    headers = BytesHeaderParser().parsebytes(head.lstrip(b" \t\r\n"))
    name = headers.get_param("name", header="content-disposition")
    if not found or not isinstance(name, str):
        raise MockError(400, "A part of the multipart body has no name.")
    return name, headers.get_filename(), content


def _add(data: dict[str, Any], name: str, content: bytes) -> None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise MockError(400, f"Form field '{name}' is not UTF-8.", param=name) from None
    if name in data:
        earlier = data[name]
        data[name] = [*earlier, text] if isinstance(earlier, list) else [earlier, text]
    else:
        data[name] = text
