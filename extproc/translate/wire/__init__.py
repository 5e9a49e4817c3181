"""How answers are cut into frames on the wire: server-sent events, AWS event streams, lines of JSON."""
