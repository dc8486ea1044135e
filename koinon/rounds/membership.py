"""The part of the law that is about members: who may use the log, who joins and who leaves, in which role."""

from __future__ import annotations

from koinon.errors import BadSignature, Malformed, Rejected, UnknownSigner
from koinon.signing import Typed, recover, signing_digest
from koinon.wire import Role

from .committee import CommitteeLaw
from .operations import ChangeCommittee, Enrol, Outcome, Revoke, StopTask, decode_operation
from .rules import refuse
from .state import Member, nobody


class MembershipLaw(CommitteeLaw):
    """Members and their credentials, which the registrar signs."""

    def admits(self, sender: bytes, operation: bytes = b"") -> None:
        """UnknownSigner unless `sender` may use the log: an active member, the registrar to stop a task or change
        the committee, or anybody who hands in an admission of its own, or a revocation, that the registrar signed and
        that was not used."""
        member = self.state.members.get(sender)
        if member is not None and member.active:
            return
        try:
            asked = decode_operation(operation)
            match asked:
                case Enrol() if asked.admission.member == sender:
                    party, serial = sender, asked.admission.serial
                    self._require_registrar(asked.admission, asked.signature)
                case StopTask() | ChangeCommittee() if sender == self.genesis.registrar:
                    return
                case Revoke():
                    party, serial = asked.revocation.member, asked.revocation.serial
                    self._require_registrar(asked.revocation, asked.signature)
                case _:
                    raise UnknownSigner(f"0x{sender.hex()} is not a member")
        except (Malformed, Rejected):
            raise UnknownSigner(f"0x{sender.hex()} is not a member and shows no valid admission") from None
        known = self.state.members.get(party)
        if known is not None and serial <= known.serial:
            raise UnknownSigner(f"0x{sender.hex()} shows a credential that was used before")

    def _enrol(self, sender: bytes, operation: Enrol) -> Outcome:
        admission = operation.admission
        if admission.member != sender:
            refuse("admission", "the admission names another party than the sender")
        self._require_registrar(admission, operation.signature)
        known = self.state.members.get(sender)
        used = known.serial if known is not None else 0
        if admission.serial <= used:
            refuse("admission", f"serial {admission.serial} is not above {used}, the last one used")
        self.state.members[sender] = Member(
            roles=admission.roles,
            examples_max=admission.examples_max,
            sealing_key=admission.sealing_key,
            serial=admission.serial,
            active=True,
            joined_ms=self.state.time_ms,
            signature=operation.signature,
        )
        return Outcome()

    def _revoke(self, operation: Revoke) -> Outcome:
        revocation = operation.revocation
        self._require_registrar(revocation, operation.signature)
        known = self.state.members.get(revocation.member, nobody(self.state.time_ms))
        if revocation.serial <= known.serial:
            refuse("admission", "a revocation that is older than the last admission")
        known.active, known.serial = False, revocation.serial
        self.state.members[revocation.member] = known
        return Outcome()

    def _require_member(self, sender: bytes) -> Member:
        member = self.state.members.get(sender)
        if member is None or not member.active:
            refuse("not-a-member", f"0x{sender.hex()} is not a member")
        return member

    def _require_role(self, sender: bytes, role: Role) -> None:
        if not self._require_member(sender).roles & role.value:
            refuse("role", f"0x{sender.hex()} has not the role {role.name}")

    def _require_registrar(self, message: Typed, signature: bytes) -> None:
        try:
            signer = recover(signing_digest(self.domain, message), signature)
        except BadSignature as error:
            refuse("admission", error.message)
        if signer != self.genesis.registrar:
            refuse("admission", f"signed by 0x{signer.hex()}, who is not the registrar")
