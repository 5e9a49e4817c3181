"""What is done to requests and answers inline, one module a stage. Pure: no I/O, no gRPC, time is passed in.

docs/stages/README.md says how a stage is made and called.
"""
