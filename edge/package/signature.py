"""Ed25519 signatures (RFC 8032) of whole bundles, in files of their own: ``BUNDLE.sig``.

Keys are PEM files, as OpenSSL makes them, which also verifies without this tool:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out key.pub.pem
    openssl pkeyutl -verify -pubin -inkey key.pub.pem -rawin -in BUNDLE -sigfile BUNDLE.sig
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import BadInput, CheckFailed
from edge.files import read_limited, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY, SIGNATURE_BYTES = 1 << 16, 64
MAKE_KEY = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"
MAKE_PUBLIC = "make it of the private one: openssl pkey -in key.pem -pubout -out key.pub.pem"


def signature_path(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.sig")


def private_key(path: Path) -> Ed25519PrivateKey:
    """
    Raises:
        BadInput: missing, protected by a password, or no Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found: Ed25519PrivateKey = _key(path, lambda data: load_pem_private_key(data, None), Ed25519PrivateKey, "private", MAKE_KEY)
    return found


def public_key(path: Path) -> Ed25519PublicKey:
    """
    Raises:
        BadInput: missing, or no Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found: Ed25519PublicKey = _key(path, load_pem_public_key, Ed25519PublicKey, "public", MAKE_PUBLIC)
    return found


def _key(path: Path, load: Any, kind: Any, name: str, make: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        found = load(read_limited(path, MAX_KEY, "key"))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{path}: not a readable {name} key: {str(error).splitlines()[0][:200]}", hint=make) from None
    if not isinstance(found, kind):
        raise BadInput(f"{path}: not an Ed25519 {name} key", hint=make)
    return found


def sign(bundle: Path, key: Ed25519PrivateKey) -> Path:
    """Write the signature beside the bundle."""
    path = signature_path(bundle)
    write_atomic(path, key.sign(bundle.read_bytes()))
    return path


def verified(bundle: Path, key: Ed25519PublicKey) -> bytes:
    """What the bundle's file holds.

    Raises:
        BadInput: there is no signature. CheckFailed: it is not of this bundle by this key.
    """
    from cryptography.exceptions import InvalidSignature

    path = signature_path(bundle)
    if not path.is_file():
        raise BadInput(f"{path}: the signature is missing", hint="sign it when it is packed: edge pack ... --sign key.pem")
    content = bundle.read_bytes()
    try:
        key.verify(read_limited(path, SIGNATURE_BYTES, "signature"), content)
    except InvalidSignature:
        raise CheckFailed(f"{bundle}: its signature is not by this key, or the bundle was changed", hint="nothing was unpacked") from None
    return content
