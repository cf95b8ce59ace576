"""The cluster's certificate authority: certificates for servers, kubeconfigs for users."""

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.dev.folder import write_private

_DAYS = 30
_SIGNS = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
_SKEW = datetime.timedelta(minutes=5)


class Authority:
    """Signs what this cluster trusts. Everything it writes lies in `folder`, keys readable by the owner alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "berth-cluster")])
        own = self._template(self._name, self._key, datetime.timedelta(days=_DAYS))
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        own = own.add_extension(_SIGNS, critical=True)
        self._certificate = own.sign(self._key, hashes.SHA256())
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, names: Sequence[str]) -> tuple[Path, Path]:
        """Certificate and key of a server that is reached by `names` (addresses too)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternatives = x509.SubjectAlternativeName([_general(each) for each in names])
        request = self._template(subject, key, datetime.timedelta(days=_DAYS)).add_extension(alternatives, False)
        request = request.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        return self._write(name, request, key)

    def client(
        self, name: str, user: str, groups: Sequence[str] = (), lifetime: datetime.timedelta | None = None
    ) -> tuple[Path, Path]:
        """Certificate and key with which the API server takes the holder for `user` in `groups`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        subject += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        request = self._template(x509.Name(subject), key, lifetime or datetime.timedelta(days=_DAYS))
        request = request.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        return self._write(name, request, key)

    def token_key(self) -> tuple[Path, Path]:
        """Private and public key of service-account tokens."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private, public = self.folder / "service-accounts.key", self.folder / "service-accounts.pub"
        write_private(private, _pem(key).decode())
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return private, public

    def kubeconfig(self, path: Path, server: str, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig for `user` that needs no other file."""
        certificate, key = self.client(path.name, user, groups)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "berth",
            "clusters": [
                {"name": "berth", "cluster": {"server": server, "certificate-authority-data": _data(self.certificate)}}
            ],
            "users": [
                {"name": user, "user": {"client-certificate-data": _data(certificate), "client-key-data": _data(key)}}
            ],
            "contexts": [{"name": "berth", "context": {"cluster": "berth", "user": user}}],
        }
        write_private(path, json.dumps(config, indent=2) + "\n")
        return path

    def _template(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        # Python verifies strictly (RFC 5280) from 3.13 on: without the key identifiers it refuses the chain.
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(signer, False)
        )

    def _write(self, name: str, request: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
        certificate, private = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        signed = request.sign(self._key, hashes.SHA256())
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        write_private(private, _pem(key).decode())
        return certificate, private


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
