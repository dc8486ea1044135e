"""Sealed boxes to one party: HPKE (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305.

`context` is bound into the box: a box that was made for another task, round, node or replica does not open.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from koinon.encoding import encode, keccak
from koinon.errors import BadPiece, PrivacyError

_suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


SEALED_EXTRA_BYTES = 48
"""How much longer a sealed box is than what it holds: an ephemeral key and a tag."""


class SealingKey:
    """A party's X25519 key pair; `public` (32 bytes) is registered with its membership."""

    def __init__(self, secret: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def derive(cls, signer_secret: bytes, epoch: int) -> SealingKey:
        """The sealing key of an epoch from a party's signing secret (HKDF-SHA256), so that one keystore does.

        Whoever learns the signing secret learns the sealing keys of all epochs.
        """
        info = b"koinon sealing" + epoch.to_bytes(8, "big")
        return cls(HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(signer_secret))

    @classmethod
    def find(cls, signer_secret: bytes, public: bytes, epoch: int) -> SealingKey:
        """The derived key that was announced as `public`, in this epoch or an earlier one; PrivacyError if none was."""
        for number in range(epoch, -1, -1):
            key = cls.derive(signer_secret, number)
            if key.public == public:
                return key
        raise PrivacyError(f"the sealing key {public.hex()} was not derived from this party's key")

    @property
    def secret(self) -> bytes:
        return self._key.private_bytes_raw()

    def __repr__(self) -> str:
        return f"SealingKey({self.public.hex()})"

    def open(self, box: bytes, context: bytes) -> bytes:
        """The plaintext; BadPiece when the box is not for this key and context."""
        try:
            return _suite.decrypt(box, self._key, context)
        except (InvalidTag, ValueError) as error:
            raise BadPiece("a sealed piece does not open for this replica, task, round and node") from error


def seal_to(public: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Encrypt to a 32-byte X25519 public key (SEALED_EXTRA_BYTES longer than `plaintext`).

    PrivacyError when `public` is no key (a wrong length, or a point of small order).
    """
    try:
        return _suite.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), context)
    except ValueError:
        raise PrivacyError(f"cannot seal to {public.hex()}: not an X25519 public key") from None


def piece_context(task: bytes, round: int, node: bytes, replica: int) -> bytes:
    """The context of a piece's sealed box: it opens for this task, round, node and replica only."""
    return encode(("koinon/piece", task, round, node, replica))


def key_share_context(public_key: bytes, replica: int) -> bytes:
    """The context of a replica's sealed share of a Paillier key (`paillier-share` in its home)."""
    return encode(("koinon/key-share", keccak(public_key), replica))
