"""The server's certificate, read again when its files change: no restart, no call is cut off."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from server.config import Config, ConfigError
from server.watched import Watched

log = logging.getLogger(__name__)


class Certificates:
    """What connections are encrypted with, for either transport, in any thread.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        files = [each for each in (certificate, key, client_ca) if each is not None]
        self._watched = Watched(files, self._renew, "the certificates stay as they were")
        self._context, self._configuration = self._load()

    def context(self) -> ssl.SSLContext:
        """For a new connection."""
        self._watched.look()
        return self._context

    def credentials(self) -> grpc.ServerCredentials:
        """For grpc.aio, which asks again at every handshake."""

        def current() -> grpc.ServerCertificateConfiguration:
            self._watched.look()
            return self._configuration

        return grpc.dynamic_ssl_server_credentials(
            self._configuration, current, self._client_ca is not None
        )

    def _renew(self) -> None:
        self._context, self._configuration = self._load()
        log.info("new certificates are in use")

    def _load(self) -> tuple[ssl.SSLContext, grpc.ServerCertificateConfiguration]:
        try:
            return self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(self._trouble(error)) from error

    def _read(self) -> tuple[ssl.SSLContext, grpc.ServerCertificateConfiguration]:
        pair = self._key.read_bytes(), self._certificate.read_bytes()
        root = None if self._client_ca is None else self._client_ca.read_bytes()
        configuration = grpc.ssl_server_certificate_configuration([pair], root)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context, configuration

    def _trouble(self, error: Exception) -> str:
        names = f"{self._certificate}, {self._key}"
        if self._client_ca is not None:
            names += f", {self._client_ca}"
        return f"TLS with {names}: {error}"


def certificates(config: Config) -> Certificates | None:
    """Those that the settings name, if they name any. Raises as `Certificates`."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)


def _no_password() -> str:
    raise ValueError("the key is encrypted")
