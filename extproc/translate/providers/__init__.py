"""The dialects that providers speak, one module each: writing their requests, reading their answers."""
