"""Inference on a Triton server, over gRPC or HTTP: the client for production."""

from lostgan_serve.runners.triton.address import ServerAddress
from lostgan_serve.runners.triton.runner import TritonRunner
from lostgan_serve.runners.triton.tls import Certificates

__all__ = ["Certificates", "ServerAddress", "TritonRunner"]
