"""Inference on a Triton server, over gRPC or HTTP: the client for production."""

from lostgan_serve.runners.triton.address import Protocol, ServerAddress
from lostgan_serve.runners.triton.runner import PATIENCE_S, TritonRunner
from lostgan_serve.runners.triton.tls import Certificates

__all__ = ["PATIENCE_S", "Certificates", "Protocol", "ServerAddress", "TritonRunner"]
