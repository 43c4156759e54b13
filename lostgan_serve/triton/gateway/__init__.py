"""The front door of a server: a process of its own that faces the network in tritonserver's place.

It takes inference, health, metadata and metrics over HTTP and gRPC, within limits, and passes them on to tritonserver,
which listens at Unix sockets that this user alone can open. Its HTTP parser, which requests can crash (see
docs/security.md), is switched off: requests over HTTP become gRPC's here.
"""
