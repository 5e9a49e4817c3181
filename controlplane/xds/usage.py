"""Accounting, as far as Envoy does it: one line of the access log for every request, whatever became of it."""

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.core.v3 import substitution_format_string_pb2 as formats
from envoy.extensions.access_loggers.file.v3 import file_pb2 as file

from controlplane.xds.protos import pack
from extproc.usage.entries import FORMAT


def log(path: str) -> accesslog.AccessLog:
    """The access log that the collector reads."""
    lines = formats.SubstitutionFormatString()
    lines.json_format.update(dict(FORMAT))
    return accesslog.AccessLog(name="usage", typed_config=pack(file.FileAccessLog(path=path, log_format=lines)))
