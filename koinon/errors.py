"""Every error that Koinon raises on purpose, drawn as a tree.

    KoinonError
    ├── ConfigError            the operator's file, flag or environment is wrong
    │   ├── UnknownKey         a key that no setting has (the nearest known one is named)
    │   └── KeystoreError      a keystore that is missing, unreadable, or of the wrong password
    ├── LedgerError            the chain says no
    │   ├── ChainUnreachable   nobody answers at the RPC address
    │   ├── WrongChain         the chain id or genesis is not the federation's
    │   ├── ContractMissing    no code, or other code, at the federation's address
    │   └── ContractReverted   a custom error of a contract, decoded by name
    ├── RemoteError            what came from outside cannot be accepted ("their lie")
    │   ├── Malformed          bytes that are not a message of the expected type
    │   │   ├── Oversized      longer than the named bound
    │   │   │   └── QuotaExceeded  a member stores as much as it may
    │   │   └── NonCanonical   decodes, but is not the one encoding of what it says
    │   ├── AuthenticationError
    │   │   ├── BadSignature   not a signature over these bytes
    │   │   ├── UnknownSigner  a good signature of somebody who may not speak here
    │   │   └── Replayed       seen before: whether it took effect is not said
    │   │       └── Overtaken  never took effect, and never will: a later request of the same key did
    │   ├── BlobMismatch       content that is not what its digest says
    │   ├── BadProof           a leaf that is not under its Merkle root
    │   ├── WrongEpoch         said in another epoch of the committee than the one it counts in
    │   ├── UncertifiedModel   a model that the chain or a quorum of replicas does not vouch for
    │   └── Unavailable        too few parties answered in time
    │       ├── Barred         whoever asks misbehaved, and has to wait
    │       └── Missing        whoever was asked has no such thing
    ├── Rejected               the law of the federation refuses an operation (`code` says which rule)
    ├── PrivacyError           a protected update cannot be made, checked or opened
    │   ├── OutOfRange         NaN, infinity, or more than the mode can carry
    │   ├── BadPiece           a piece that contradicts its commitment; names the client
    │   │   └── InvalidProof   an update whose norm is not proved to be within the task's bound; names the client
    │   ├── CannotOpen         too few agreeing contributions; names the dissenters
    │   ├── KeyOutdated        the committee changed since its Paillier key was dealt
    │   └── Unproven           what the committee says of others, who did not sign it; names them
    ├── TrainingError          the user's model code failed or answered with the wrong shape
    ├── AuditFailure           the first lie that the audit found
    ├── StorageDamaged         a file of ours is not what was written to it
    ├── StorageFailed          the disk is full, read-only or broken
    └── InvariantBroken        our own bug: stop rather than continue wrongly

`code` is a stable, lower-case name for counters, logs and `--json`; `hint` says what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class KoinonError(Exception):
    """Root of the tree. `exit_code` is what a command ends with when it meets this error."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    advice: ClassVar[str | None] = None
    """The hint of those that are raised without one."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.advice


class ConfigError(KoinonError):
    code = "config"
    exit_code = 2


class UnknownKey(ConfigError):
    code = "unknown-key"


class KeystoreError(ConfigError):
    code = "keystore"
    advice = "keystore and password file belong together: config.toml names both"


class LedgerError(KoinonError):
    code = "ledger"
    exit_code = 3


class ChainUnreachable(LedgerError):
    code = "chain-unreachable"
    advice = "does the chain run, and is rpc in federation.json its address?"


class WrongChain(LedgerError):
    code = "wrong-chain"
    advice = "is rpc in federation.json the right chain? One that was reset needs its data back, or a new federation"


class ContractMissing(LedgerError):
    code = "contract-missing"
    advice = "is rpc in federation.json the right chain, and this the version of Koinon that deployed the contracts?"


class ContractReverted(LedgerError):
    """A contract refused; `name` is its custom error, `arguments` the decoded values."""

    code = "contract-reverted"

    def __init__(self, name: str, arguments: tuple[object, ...] = (), *, hint: str | None = None) -> None:
        super().__init__(f"{name}({', '.join(map(str, arguments))})", hint=hint)
        self.name = name
        self.arguments = arguments


class RemoteError(KoinonError):
    code = "remote"
    exit_code = 4


class Malformed(RemoteError):
    code = "malformed"


class Oversized(Malformed):
    code = "oversized"


class QuotaExceeded(Oversized):
    code = "quota-exceeded"


class NonCanonical(Malformed):
    code = "non-canonical"


class AuthenticationError(RemoteError):
    code = "authentication"


class BadSignature(AuthenticationError):
    code = "bad-signature"


class UnknownSigner(AuthenticationError):
    code = "unknown-signer"


class Replayed(AuthenticationError):
    code = "replayed"


class Overtaken(Replayed):
    code = "overtaken"


class BlobMismatch(RemoteError):
    code = "blob-mismatch"


class BadProof(RemoteError):
    code = "bad-proof"


class WrongEpoch(RemoteError):
    code = "wrong-epoch"


class UncertifiedModel(RemoteError):
    code = "uncertified-model"


class Unavailable(RemoteError):
    code = "unavailable"


class Barred(Unavailable):
    code = "barred"


class Missing(Unavailable):
    code = "missing"


class Rejected(KoinonError):
    """The law refuses an operation. `rule` is one of `koinon.rounds.rules.RULES`."""

    code = "rejected"
    exit_code = 5

    def __init__(self, rule: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


class PrivacyError(KoinonError):
    code = "privacy"
    exit_code = 6


class OutOfRange(PrivacyError):
    code = "out-of-range"


class BadPiece(PrivacyError):
    code = "bad-piece"


class InvalidProof(BadPiece):
    code = "invalid-proof"


class CannotOpen(PrivacyError):
    code = "cannot-open"


class KeyOutdated(PrivacyError):
    code = "key-outdated"


class Unproven(PrivacyError):
    code = "unproven"


class TrainingError(KoinonError):
    code = "training"
    exit_code = 7


class AuditFailure(KoinonError):
    code = "audit"
    exit_code = 1


class StorageDamaged(KoinonError):
    code = "storage-damaged"
    advice = "restore it, or start with an empty data/: docs/operating.md, A home"
    exit_code = 8


class StorageFailed(KoinonError):
    code = "storage-failed"
    advice = "give the disk room and let it be written, then start again"
    exit_code = 8


class InvariantBroken(KoinonError):
    code = "invariant"
    exit_code = 70
