"""The dialects that clients speak: reading their requests, writing their answers."""
