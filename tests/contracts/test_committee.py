"""Epochs and quorums: who speaks for the committee, and every way of pretending to."""

from __future__ import annotations

import pytest

from koinon.encoding import keccak, to_hex
from koinon.epochs import members_hash
from koinon.signing import Signer
from tests.contracts.conftest import Reverts
from tests.contracts.world import START_S, World, key, sealing_keys, urls

DIGEST = keccak(b"any digest")


def require(world: World, indices: list[int], **changes: object) -> None:
    """Ask the contract; `changes` replace epoch, digest, members, bitmap or signatures."""
    given = {
        "epoch": 0,
        "digest": DIGEST,
        "members": [replica.address for replica in world.replicas],
        "bitmap": sum(1 << index for index in indices),
        "signatures": b"".join(world.replicas[index].sign_digest(DIGEST) for index in indices),
    } | changes
    world.view("Committee", "requireQuorum", *given.values())


@pytest.mark.parametrize(("size", "quorum"), [(1, 1), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7), (31, 21)])
def test_quorum_is_n_minus_a_third(world: World, size: int, quorum: int) -> None:
    assert world.view("Committee", "quorum", size) == quorum


@pytest.mark.parametrize("replicas", [1, 4, 7, 31])
def test_exactly_a_quorum_suffices_and_one_less_does_not(replicas: int, reverts: Reverts) -> None:
    world = World(replicas)
    needed = replicas - (replicas - 1) // 3
    require(world, list(range(needed)))
    require(world, list(range(replicas - needed, replicas)))
    require(world, list(range(replicas)))
    with reverts("Committee__NoQuorum", needed - 1, needed):
        require(world, list(range(needed - 1)))


def test_signatures_in_another_order_are_refused(world: World, reverts: Reverts) -> None:
    swapped = b"".join(world.replicas[index].sign_digest(DIGEST) for index in (1, 0, 2))
    with reverts("Committee__BadSignature", 0, to_hex(world.replicas[1].address)):
        require(world, [0, 1, 2], signatures=swapped)


def test_one_signature_counted_twice_is_refused(world: World, reverts: Reverts) -> None:
    repeated = b"".join(world.replicas[index].sign_digest(DIGEST) for index in (0, 0, 1))
    with reverts("Committee__BadSignature", 1, to_hex(world.replicas[0].address)):
        require(world, [0, 1, 2], signatures=repeated)


def test_signature_of_another_digest_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("Committee__BadSignature"):
        require(world, [0, 1, 2], digest=keccak(b"another"))


def test_zero_signature_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("Committee__BadSignature", 0, to_hex(bytes(20))):
        require(world, [0, 1, 2], signatures=bytes(3 * 64))


def test_signature_with_a_high_s_is_refused(world: World, reverts: Reverts) -> None:
    half_order = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
    signatures = [world.replicas[index].sign_digest(DIGEST) for index in (0, 1, 2)]
    signatures[0] = signatures[0][:32] + (half_order + 1).to_bytes(32, "big")
    with reverts("Committee__BadSignature", 0, to_hex(bytes(20))):
        require(world, [0, 1, 2], signatures=b"".join(signatures))


@pytest.mark.parametrize("length", [0, 191, 193, 256])
def test_signatures_must_match_the_bitmap_in_length(world: World, reverts: Reverts, length: int) -> None:
    with reverts("Committee__SignatureLength", length, 192):
        require(world, [0, 1, 2], signatures=bytes(length))


def test_bit_beyond_the_committee_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("Committee__BitmapOutOfRange", 0b10111, 4):
        require(world, [0, 1, 2], bitmap=0b10111)


def test_unknown_epoch_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("Committee__UnknownEpoch", 1):
        require(world, [0, 1, 2], epoch=1)
    with reverts("Committee__UnknownEpoch", 1):
        world.view("Committee", "epochInfo", 1)


def test_other_members_than_the_epochs_are_refused(world: World, reverts: Reverts) -> None:
    impostors = [key(f"impostor {index}") for index in range(4)]
    signatures = b"".join(impostor.sign_digest(DIGEST) for impostor in impostors)
    with reverts("Committee__WrongMembers"):
        require(world, [0, 1, 2, 3], members=[each.address for each in impostors], signatures=signatures)


def test_members_in_another_order_are_refused(world: World, reverts: Reverts) -> None:
    with reverts("Committee__WrongMembers"):
        require(world, [0, 1, 2], members=[replica.address for replica in reversed(world.replicas)])


def test_past_epoch_keeps_its_quorum(world: World) -> None:
    install(world, [key("next")])
    assert world.view("Committee", "epoch") == 1
    require(world, [0, 1, 2], epoch=0)


def install(world: World, members: list[Signer], sender: Signer | None = None) -> None:
    count = len(members)
    world.send(
        sender or world.registrar,
        "Committee",
        "installEpoch",
        [member.address for member in members],
        sealing_keys(count),
        urls(count),
    )


def test_installation_says_everything_that_a_client_needs(world: World) -> None:
    members = [key(f"next {index}").address for index in range(7)]
    done = world.send(world.registrar, "Committee", "installEpoch", members, sealing_keys(7), urls(7))
    announced = (1, members_hash(members), tuple(members), tuple(sealing_keys(7)), tuple(urls(7)))
    assert done.events == [("EpochInstalled", announced)]
    assert world.view("Committee", "epochInfo", 1) == (members_hash(members), 7, 1, START_S)


def test_only_the_owner_installs_without_a_certificate(world: World, reverts: Reverts) -> None:
    with reverts("OwnableUnauthorizedAccount"):
        install(world, [key("next")], sender=world.aggregator)


@pytest.mark.parametrize("size", [0, 32])
def test_committee_has_1_to_31_members(world: World, reverts: Reverts, size: int) -> None:
    with reverts("Committee__BadSize", size):
        install(world, [key(f"next {index}") for index in range(size)])


def test_every_member_needs_a_sealing_key_and_an_address(world: World, reverts: Reverts) -> None:
    members = [key("a").address, key("b").address]
    with reverts("Committee__LengthMismatch", 2, 1, 2):
        world.send(world.registrar, "Committee", "installEpoch", members, sealing_keys(1), urls(2))
    with reverts("Committee__LengthMismatch", 2, 2, 3):
        world.send(world.registrar, "Committee", "installEpoch", members, sealing_keys(2), urls(3))


def test_zero_and_duplicate_members_are_refused(world: World, reverts: Reverts) -> None:
    one = key("one").address
    with reverts("Committee__ZeroMember", 1):
        world.send(world.registrar, "Committee", "installEpoch", [one, bytes(20)], sealing_keys(2), urls(2))
    with reverts("Committee__DuplicateMember", to_hex(one)):
        world.send(
            world.registrar, "Committee", "installEpoch", [one, key("two").address, one], sealing_keys(3), urls(3)
        )
