"""Recorded traffic: its format (`exchange`), what is removed from it (`redact`), and the proxy that writes it.

    python -m sidecars.recording --upstream http://127.0.0.1:8080 --listen 127.0.0.1:8081 --to traffic.jsonl

`docs/replay.md` has the format and what is done with recordings.
"""
