"""A gRPC server on asyncio for clients that keep connections and make many short calls, as Envoy does.

server.py takes connections, connection.py speaks HTTP/2 on one, call.py speaks gRPC on one stream of it.
"""
