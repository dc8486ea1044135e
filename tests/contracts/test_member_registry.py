"""Credentials of the registrar: admitted once, replaced only by newer ones, ended by revocation."""

from __future__ import annotations

import pytest

from koinon.encoding import to_hex
from koinon.wire import Admission, Revocation, Role
from tests.contracts.conftest import Reverts
from tests.contracts.world import World, fields, key

NEWCOMER = key("newcomer")


def admission(serial: int = 1, roles: int = Role.NODE) -> Admission:
    return Admission(member=NEWCOMER.address, roles=roles, examples_max=500, sealing_key=b"\x07" * 32, serial=serial)


def test_admission_by_the_registrar_registers_and_says_so(world: World) -> None:
    credential = admission()
    done = world.send(
        NEWCOMER, "MemberRegistry", "register", fields(credential), world.registrar.sign(world.domain, credential)
    )
    assert done.events == [("MemberRegistered", (NEWCOMER.address, Role.NODE, 500, b"\x07" * 32, 1))]
    assert world.view("MemberRegistry", "member", NEWCOMER.address) == (True, Role.NODE, 500, 1, b"\x07" * 32)


def test_admission_by_anybody_else_is_refused(world: World, reverts: Reverts) -> None:
    credential = admission()
    with reverts("MemberRegistry__NotRegistrar", to_hex(NEWCOMER.address)):
        world.send(NEWCOMER, "MemberRegistry", "register", fields(credential), NEWCOMER.sign(world.domain, credential))


def test_altered_admission_is_refused(world: World, reverts: Reverts) -> None:
    signature = world.registrar.sign(world.domain, admission(roles=Role.NODE))
    with reverts("MemberRegistry__NotRegistrar"):
        world.send(NEWCOMER, "MemberRegistry", "register", fields(admission(roles=Role.AGGREGATOR)), signature)


def test_admission_of_another_network_is_refused(world: World, reverts: Reverts) -> None:
    credential = admission()
    elsewhere = type(world.domain)(world.domain.chain_id + 1, world.domain.contract)
    with reverts("MemberRegistry__NotRegistrar"):
        world.send(
            NEWCOMER, "MemberRegistry", "register", fields(credential), world.registrar.sign(elsewhere, credential)
        )


@pytest.mark.parametrize("length", [0, 63, 65])
def test_signature_that_is_not_64_bytes_is_refused(world: World, reverts: Reverts, length: int) -> None:
    with reverts("CompactSignatures__BadLength", length):
        world.send(NEWCOMER, "MemberRegistry", "register", fields(admission()), bytes(length))


def test_replayed_admission_is_refused(world: World, reverts: Reverts) -> None:
    world.admit(NEWCOMER, Role.NODE, serial=3)
    with reverts("MemberRegistry__StaleSerial", to_hex(NEWCOMER.address), 3, 3):
        world.admit(NEWCOMER, Role.NODE, serial=3)


def test_admission_replayed_after_revocation_is_refused(world: World, reverts: Reverts) -> None:
    world.admit(NEWCOMER, Role.NODE, serial=3)
    world.revoke(NEWCOMER, serial=4)
    with reverts("MemberRegistry__StaleSerial"):
        world.admit(NEWCOMER, Role.NODE, serial=3)
    assert not world.view("MemberRegistry", "isMember", NEWCOMER.address)


def test_newer_admission_replaces_roles(world: World) -> None:
    world.admit(NEWCOMER, Role.NODE, serial=1)
    world.admit(NEWCOMER, Role.AGGREGATOR, serial=2)
    assert world.view("MemberRegistry", "hasRoles", NEWCOMER.address, Role.AGGREGATOR)
    assert not world.view("MemberRegistry", "hasRoles", NEWCOMER.address, Role.NODE)


def test_has_roles_asks_for_all_of_them(world: World) -> None:
    world.admit(NEWCOMER, Role.NODE | Role.AUDITOR)
    assert world.view("MemberRegistry", "hasRoles", NEWCOMER.address, Role.NODE | Role.AUDITOR)
    assert not world.view("MemberRegistry", "hasRoles", NEWCOMER.address, Role.NODE | Role.AGGREGATOR)


def test_revocation_ends_membership_and_roles(world: World) -> None:
    world.admit(NEWCOMER, Role.NODE, serial=1)
    assert world.revoke(NEWCOMER, serial=2).events == [("MemberRevoked", (NEWCOMER.address, 2))]
    assert not world.view("MemberRegistry", "isMember", NEWCOMER.address)
    assert not world.view("MemberRegistry", "hasRoles", NEWCOMER.address, 0)
    assert world.view("MemberRegistry", "member", NEWCOMER.address) == (False, 0, 600, 2, b"\x05" * 32)


def test_revocation_by_anybody_else_is_refused(world: World, reverts: Reverts) -> None:
    revocation = Revocation(member=world.node.address, serial=2)
    signature = world.node.sign(world.domain, revocation)
    with reverts("MemberRegistry__NotRegistrar"):
        world.send(world.node, "MemberRegistry", "revoke", fields(revocation), signature)


def test_revocation_of_a_stranger_or_twice_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("MemberRegistry__NotMember", to_hex(NEWCOMER.address)):
        world.revoke(NEWCOMER, serial=1)
    world.revoke(world.node, serial=2)
    with reverts("MemberRegistry__NotMember"):
        world.revoke(world.node, serial=3)
    with reverts("MemberRegistry__StaleSerial"):
        world.revoke(world.node, serial=2)


@pytest.mark.parametrize("arguments", [(bytes(20), b"\x01" * 20), (b"\x01" * 20, bytes(20))])
def test_registry_without_ledger_or_registrar_cannot_be_deployed(
    world: World, reverts: Reverts, arguments: tuple[bytes, bytes]
) -> None:
    with reverts("MemberRegistry__ZeroAddress"):
        world.create("MemberRegistry", *arguments)
