"""Who can reach a server, and how."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from lostgan_serve.errors import ServerError
from lostgan_serve.progress import Progress
from lostgan_serve.runners.triton.tls import Certificates
from lostgan_serve.triton.addresses import LOOPBACK

_NO_CERTIFICATES = Certificates()


@dataclass(frozen=True)
class Exposure:
    """Who can reach a server, and how.

    host: address or name of this machine to listen at. ports: of HTTP, gRPC and metrics; 0 stands for a free one.
    certificates: the server's own, with which all three are encrypted. direct: whether tritonserver itself listens
    there, with neither limits nor encryption.
    """

    host: str = LOOPBACK
    ports: tuple[int, int, int] = (0, 0, 0)
    certificates: Certificates = _NO_CERTIFICATES
    direct: bool = False

    def check(self, ip: str, progress: Progress) -> None:
        """Tell what is given up where others can reach the server. ip: the address of `host`. Raises InputError for
        certificates that cannot be used, and ServerError."""
        self.certificates.context("h2")
        if self.certificates.cert and self.direct:
            raise ServerError("--direct: tritonserver encrypts nothing here; leave out --tls-cert, or --direct")
        if not ipaddress.ip_address(ip).is_loopback:
            gates = "no gateway limits requests" if self.direct else ""
            tls = "" if self.certificates.cert else "nothing is encrypted"
            if given_up := " and ".join(filter(None, (tls, gates))):
                progress.note(f"warning: --host {self.host} lets others reach the server, and {given_up}")
