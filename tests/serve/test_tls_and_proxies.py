"""Connections to servers that are encrypted, or that go by way of a proxy."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import EXAMPLES, Cli, fails_in_one_line
from lostgan_serve.errors import InputError, ServerError, ServerUnavailableError
from lostgan_serve.runners.onnxrt import OnnxRunner
from lostgan_serve.runners.triton import Certificates, TritonRunner
from lostgan_serve.triton.exposure import Exposure
from lostgan_serve.triton.server import Endpoints, running_server
from relays import HttpProxy, Relay, listening, server_context
from servers import assert_answers

MODEL = "lostgan_128"
PROTOCOLS = ("grpc", "http")
ALPN = {"grpc": "h2", "http": "http/1.1"}

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Endpoints]:
    with running_server(tiny_repository) as endpoints:
        yield endpoints


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> OnnxRunner:
    return OnnxRunner(tiny_model)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# TLS


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and keys: an authority `ca`; `server`, for localhost, `other`, for example.org, `client` and `late`,
    out of date, which it signed; `stranger`, which signed itself."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificates")
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str, subject: str, *options: str) -> None:
        base = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*base, *files, *options], cwd=folder, check=True, capture_output=True)

    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE")
    here = ("-addext", "subjectAltName=DNS:localhost,DNS:triton.example,IP:127.0.0.1")
    make("ca", "an authority")
    make("server", "localhost", *signed, *here)
    make("other", "example.org", *signed, "-addext", "subjectAltName=DNS:example.org")
    make("client", "a client", *signed)
    make("stranger", "localhost", *here)
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for command in (
        "req -new -key server.key -subj /CN=localhost -out late.csr",
        "x509 -req -in late.csr -CA ca.pem -CAkey ca.key -days -1 -extfile names -out late.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "server.key", folder / "late.key")
    secret = ("openssl", "pkey", "-in", "client.key", "-aes128", "-passout", "pass:x", "-out", "locked.key")
    subprocess.run(secret, cwd=folder, check=True, capture_output=True)
    (folder / "empty.pem").touch()
    return folder


def secured(keys: Path, protocol: str, name: str = "server", *, mutual: bool = False) -> Callable[[str], Relay]:
    context = server_context(keys, name, ALPN[protocol], keys / "ca.pem" if mutual else None)
    return lambda target: Relay(target, context)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls(server: Endpoints, local: OnnxRunner, keys: Path, protocol: str) -> None:
    with listening(secured(keys, protocol)(getattr(server, protocol))) as port:
        for host in ("localhost", "127.0.0.1"):
            runner = TritonRunner(f"{protocol}s://{host}:{port}", MODEL, certificates=Certificates(keys / "ca.pem"))
            assert_answers(runner, local)
            runner.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_authorities_of_the_system(
    server: Endpoints, local: OnnxRunner, keys: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(keys / "ca.pem"))
    with listening(secured(keys, protocol)(getattr(server, protocol))) as port:
        assert_answers(TritonRunner(f"{protocol}s://localhost:{port}", MODEL), local)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutual_tls(server: Endpoints, local: OnnxRunner, keys: Path, protocol: str) -> None:
    both = keys / "both.pem"
    both.write_bytes((keys / "client.pem").read_bytes() + (keys / "client.key").read_bytes())
    with listening(secured(keys, protocol, mutual=True)(getattr(server, protocol))) as port:
        for own in ((keys / "client.pem", keys / "client.key"), (both, None)):
            certificates = Certificates(keys / "ca.pem", *own)
            assert_answers(TritonRunner(f"{protocol}s://localhost:{port}", MODEL, certificates=certificates), local)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("server", (), "its certificate is not trusted"),
        ("stranger", ("ca.pem",), "give the authority that signed it with --tls-ca"),
        ("other", ("ca.pem",), "its certificate is not for localhost"),
        ("late", ("ca.pem",), "its certificate is out of date"),
    ],
)
def test_servers_that_are_not_trusted(
    server: Endpoints, keys: Path, protocol: str, name: str, given: Sequence[str], words: str
) -> None:
    certificates = Certificates(*(keys / file for file in given))
    with (
        listening(secured(keys, protocol, name)(getattr(server, protocol))) as port,
        pytest.raises(ServerError, match=words),
    ):
        TritonRunner(f"{protocol}s://localhost:{port}", MODEL, certificates=certificates)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("own", "words"),
    [
        ((), "it asks for a client certificate; give one with --tls-cert"),
        (("stranger.pem", "stranger.key"), "it does not accept this client's certificate"),
    ],
)
def test_servers_that_do_not_trust(
    server: Endpoints, keys: Path, protocol: str, own: Sequence[str], words: str
) -> None:
    certificates = Certificates(keys / "ca.pem", *(keys / file for file in own))
    with (
        listening(secured(keys, protocol, mutual=True)(getattr(server, protocol))) as port,
        pytest.raises(ServerError, match=words),
    ):
        TritonRunner(f"{protocol}s://localhost:{port}", MODEL, certificates=certificates)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_with_a_server_that_speaks_none(server: Endpoints, protocol: str) -> None:
    netloc = getattr(server, protocol)
    with pytest.raises(ServerError, match=f"does not speak TLS; give {protocol}://{netloc}"):
        TritonRunner(f"{protocol}s://{netloc}", MODEL)


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_tls_with_a_server_that_speaks_it(server: Endpoints, keys: Path, protocol: str, mutual: bool) -> None:
    with (
        listening(secured(keys, protocol, mutual=mutual)(getattr(server, protocol))) as port,
        pytest.raises(ServerError, match=f"it speaks TLS; give {protocol}s://localhost:{port}"),
    ):
        TritonRunner(f"{protocol}://localhost:{port}", MODEL, timeout_s=10)


def test_grpc_with_a_server_of_https(server: Endpoints, keys: Path) -> None:
    with (
        listening(secured(keys, "http")(server.http)) as port,
        pytest.raises(ServerError, match=f"it speaks TLS but not gRPC; try https://localhost:{port}"),
    ):
        TritonRunner(f"grpcs://localhost:{port}", MODEL, certificates=Certificates(keys / "ca.pem"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("missing.pem", None, None), "missing.pem: cannot be read"),
        ((".", None, None), "cannot be read"),
        (("empty.pem", None, None), "empty.pem: it holds no certificate"),
        (("server.key", None, None), "server.key: it holds no certificate"),
        (("ca.pem", "missing.pem", None), "missing.pem: cannot be read"),
        (("ca.pem", "client.pem", None), "client.pem: it holds no private key"),
        (("ca.pem", "client.pem", "server.pem"), "server.pem: it holds no private key"),
        (("ca.pem", "client.pem", "server.key"), "server.key: this is not the key of the certificate"),
        (("ca.pem", "client.pem", "locked.key"), "locked.key: the key is encrypted"),
        (("ca.pem", None, "client.key"), "client.key: a key without its certificate"),
    ],
)
def test_files_that_are_no_certificates(keys: Path, protocol: str, files: Sequence[str | None], words: str) -> None:
    certificates = Certificates(*(keys / name if name else None for name in files))
    with pytest.raises(InputError, match=words) as caught:
        TritonRunner(f"{protocol}s://localhost:1", MODEL, certificates=certificates)
    assert "\n" not in str(caught.value)


# Proxies


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "own name"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_this_machine_is_asked_without_a_proxy(
    server: Endpoints, local: OnnxRunner, protocol: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = host.replace("own name", "LocalHost"), getattr(server, protocol).partition(":")[2]
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert_answers(TritonRunner(f"{protocol}://{host}:{port}", MODEL), local)


@pytest.mark.parametrize(
    ("scheme", "variable", "asked"),
    [
        ("grpc", "http_proxy", "CONNECT triton.example:"),
        ("grpc", "grpc_proxy", "CONNECT triton.example:"),
        ("grpcs", "https_proxy", "CONNECT triton.example:"),
        ("http", "http_proxy", "GET http://triton.example:"),
        ("https", "HTTPS_PROXY", "CONNECT triton.example:"),
    ],
)
def test_other_machines_are_asked_by_way_of_the_proxy(
    server: Endpoints,
    local: OnnxRunner,
    keys: Path,
    scheme: str,
    variable: str,
    asked: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocol, proxy = scheme.removesuffix("s"), HttpProxy()
    relay = secured(keys, protocol)(getattr(server, protocol)) if scheme.endswith("s") else Relay(server.grpc)
    relay.target = getattr(server, protocol)
    with listening(proxy) as proxy_port, listening(relay) as port:
        monkeypatch.setenv(variable, f"http://ann:pass%20word@127.0.0.1:{proxy_port}")
        url = f"{scheme}://triton.example:{port}"
        assert_answers(TritonRunner(url, MODEL, certificates=Certificates(keys / "ca.pem")), local)
    assert proxy.asked[0].startswith(asked)
    assert any(line.lower() == "proxy-authorization: basic yw5uonbhc3mgd29yza==" for line in proxy.headers)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_beyond_ascii_by_way_of_the_proxy(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = HttpProxy(b"HTTP/1.1 503 Nobody home\r\nContent-Length: 0\r\n\r\n")
    with listening(proxy) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(ServerUnavailableError):
            TritonRunner(f"{protocol}://bücher.example:8000", MODEL)
    assert "xn--bcher-kva.example:8000" in proxy.asked[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_proxy(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = HttpProxy()
    with listening(proxy) as port:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", ".example")
        with pytest.raises(ServerUnavailableError):
            TritonRunner(f"{protocol}://nowhere.example:8001", MODEL)
    assert not proxy.asked


@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "http", "https"])
def test_a_proxy_that_refuses(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = b"HTTP/1.1 503 Nobody home\r\nContent-Length: 0\r\n\r\n"
    with listening(HttpProxy(refusal)) as port:
        for variable in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(variable, f"http://ann:secret@127.0.0.1:{port}")
        with pytest.raises(ServerError, match=f"by way of the proxy 127.0.0.1:{port};.*503") as caught:
            TritonRunner(f"{scheme}://triton.example:8001", MODEL)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://127.0.0.1:1080",
        "http://:3128",
        "http://127.0.0.1:99999",
        "http://a..b:80",
        "http://ann:\udce9@127.0.0.1:80",
        "http://[::1",
    ],
)
def test_proxies_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(ServerError, match=r"https_proxy: the proxy for .* is to be http://HOST"):
        TritonRunner("https://triton.example", MODEL)


# The command


def test_client_with_tls(
    cli: Cli, server: Endpoints, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for protocol in PROTOCOLS:
        with listening(secured(keys, protocol, mutual=True)(getattr(server, protocol))) as port:
            command = ("client", EXAMPLES[0], "--url", f"{protocol}s://localhost:{port}", "--out", tmp_path / protocol)
            fails_in_one_line(cli(*command, "--tls-ca", keys / "ca.pem"), ["--tls-cert", "--tls-key"])
            own = ("--tls-cert", keys / "client.pem", "--tls-key", keys / "client.key")
            cli(*command, "--tls-ca", keys / "ca.pem", *own, check=True)
            with monkeypatch.context() as environment:
                for option, file in {"CA": "ca.pem", "CERT": "client.pem", "KEY": "client.key"}.items():
                    environment.setenv(f"LOSTGAN_SERVE_TLS_{option}", str(keys / file))
                cli(*command, "--overwrite", check=True)


def test_certificates_and_an_address_without_tls(
    cli: Cli, server: Endpoints, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names certificates wants TLS; who has them in the environment may ask a server on this machine, too."""
    command = ("client", EXAMPLES[0], "--url", server.grpc, "--out", tmp_path)
    fails_in_one_line(cli(*command, "--tls-ca", keys / "ca.pem"), ["--tls-ca", f"grpcs://{server.grpc}"])
    monkeypatch.setenv("LOSTGAN_SERVE_TLS_CA", str(keys / "ca.pem"))
    cli(*command, check=True)


def test_a_server_encrypts_all_that_it_answers(keys: Path, tiny_repository: Path, local: OnnxRunner) -> None:
    own = Certificates(cert=keys / "server.pem", key=keys / "server.key")
    with running_server(tiny_repository, Exposure(certificates=own)) as endpoints:
        for url in (f"grpcs://localhost:{_port(endpoints.grpc)}", f"https://localhost:{_port(endpoints.http)}"):
            assert_answers(TritonRunner(url, MODEL, certificates=Certificates(ca=keys / "ca.pem")), local)
        for url in (endpoints.grpc, f"http://{endpoints.http}"):
            with pytest.raises(ServerError, match="TLS"):
                TritonRunner(url, MODEL)
        context = ssl.create_default_context(cafile=keys / "ca.pem")
        url = f"https://localhost:{_port(endpoints.metrics)}/metrics"
        assert b"nv_inference" in urllib.request.urlopen(url, context=context, timeout=10).read()


def _port(netloc: str) -> str:
    return netloc.rpartition(":")[2]
