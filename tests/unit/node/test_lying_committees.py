"""Committees that lie to nodes of mode `masked`, all replicas together: what nobody signed is refused by name, and two
accepted sets are never both opened while no more than a third of the invited nodes help."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import msgspec
import pytest

from koinon.encoding import keccak
from koinon.errors import PrivacyError, Rejected, Unproven
from koinon.privacy import SealingKey
from koinon.privacy.masking import announce, threshold
from koinon.rounds.operations import AnnounceMasks, ConfirmSet, RevealShares
from koinon.rounds.state import MaskBoard, Member
from koinon.rounds.vouching import accepted_set, mask_notice
from koinon.signing import Signer
from koinon.wire import MaskAnnouncement, Role
from tests.unit.node.masks import Masked
from tests.unit.rounds.world import NODES, STRANGER, key

VICTIM, OTHER = 0, 1
LIARS_KEY = SealingKey(b"\x77" * 32)
NAMED = f"node 0x{NODES[OTHER].address.hex()}"
Members = dict[bytes, Member]


@pytest.fixture
def world(tmp_path: Path) -> Masked:
    return Masked(tmp_path)


# --- who is invited, with which keys -----------------------------------------------------------------------------


def changed(**fields: object) -> Callable[[Masked, Members], None]:
    def lie(world: Masked, told: Members) -> None:
        name = NODES[OTHER].address
        told[name] = msgspec.structs.replace(told[name], **fields)

    return lie


def of_another_registrar(world: Masked, told: Members) -> None:
    name = NODES[OTHER].address
    false = msgspec.structs.replace(told[name], sealing_key=LIARS_KEY.public)
    told[name] = msgspec.structs.replace(false, signature=STRANGER.sign(world.law.domain, false.admission(name)))


def of_another_federation(world: Masked, told: Members) -> None:
    name = NODES[OTHER].address
    elsewhere = msgspec.structs.replace(told[name], sealing_key=LIARS_KEY.public)
    domain = type(world.law.domain)(1, b"\x33" * 20)
    signature = key("registrar").sign(domain, elsewhere.admission(name))
    told[name] = msgspec.structs.replace(elsewhere, signature=signature)


def somebody_elses(world: Masked, told: Members) -> None:
    told[NODES[OTHER].address] = told[NODES[2].address]


def nobody_known(world: Masked, told: Members) -> None:
    del told[NODES[OTHER].address]


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        pytest.param(changed(sealing_key=LIARS_KEY.public), "was signed by", id="forged key"),
        pytest.param(changed(signature=bytes(64)), "bears no signature", id="no signature"),
        pytest.param(changed(signature=b"short"), "bears no signature", id="malformed signature"),
        pytest.param(changed(examples_max=2**31), "was signed by", id="forged cap"),
        pytest.param(changed(serial=9), "was signed by", id="forged serial"),
        pytest.param(of_another_registrar, f"was signed by 0x{STRANGER.address.hex()}", id="another registrar"),
        pytest.param(of_another_federation, "was signed by", id="another federation"),
        pytest.param(somebody_elses, "was signed by", id="another node's"),
        pytest.param(nobody_known, "without an admission", id="no admission"),
    ],
)
def test_a_key_that_the_registrar_did_not_sign_is_sealed_to_by_nobody(
    world: Masked, lie: Callable[[Masked, Members], None], why: str
) -> None:
    def told(members: Members) -> Members:
        lie(world, members)
        return members

    world.committees[VICTIM].lies["members"] = told
    with pytest.raises(Unproven, match=why) as error:
        world.announce(VICTIM)
    assert NAMED in error.value.message
    assert not world.said(VICTIM, AnnounceMasks)
    assert not list((world.root / "0").iterdir())


def test_an_admission_that_the_chain_knows_to_be_replaced_or_revoked_is_refused(world: Masked) -> None:
    world.chain.serials = {node.address: 1 for node in NODES}
    world.chain.serials[NODES[OTHER].address] = 2
    with pytest.raises(Unproven, match=r"serial 1\) is out of date: the chain has serial 2") as error:
        world.announce(VICTIM)
    assert NAMED in error.value.message


def test_a_newer_admission_than_the_chain_knows_is_good(world: Masked) -> None:
    world.chain.serials = {node.address: 0 for node in NODES}
    world.announce(VICTIM)
    assert world.said(VICTIM, AnnounceMasks)


def test_an_old_admission_is_no_cohort_that_a_node_announced_to_before(world: Masked) -> None:
    old = dict(world.law.state.members)
    world.enrol(NODES[OTHER], Role.NODE, serial=2)
    world.committees[VICTIM].lies["members"] = lambda _: old
    world.announce(VICTIM)  # a round that was opened before the node turned its credential
    del world.committees[VICTIM].lies["members"]
    with pytest.raises(Unproven, match="to another cohort"):
        world.announce(VICTIM)


def test_who_was_not_admitted_as_a_node_is_no_part_of_a_cohort(world: Masked) -> None:
    admission = world.admission(NODES[OTHER], Role.AUDITOR, serial=2)
    world.do(NODES[OTHER], admission)
    with pytest.raises(Unproven, match="was not admitted as a node"):
        world.announce(VICTIM)


@pytest.mark.parametrize(
    ("cohort", "why"),
    [
        pytest.param(NODES[1:], "no list of nodes with this one in it", id="without me"),
        pytest.param(NODES[::-1], "no list of nodes", id="descending"),
        pytest.param([NODES[0], NODES[0], NODES[1]], "no list of nodes", id="twice"),
        pytest.param(NODES[:2], "2 nodes are invited to round 1, the task wants 3 to 128", id="too few"),
        pytest.param([*NODES[:3], key("sybil")], "without an admission", id="sybil"),
    ],
)
def test_a_cohort_is_checked_before_anything_is_sealed_to_it(world: Masked, cohort: list[Signer], why: str) -> None:
    lie = world.without()
    lie.cohort = tuple(node.address for node in cohort)
    if why == "without an admission":
        lie.cohort = tuple(sorted(lie.cohort))
    world.record.rounds[-1] = lie
    with pytest.raises(Unproven, match=why):
        world.announce(VICTIM)


def test_a_node_seals_its_shares_only_where_its_own_key_stands_beside_its_name(world: Masked) -> None:
    """Not even the registrar passes off a key as this node's."""
    admission = world.admission(NODES[VICTIM], Role.NODE, serial=2).admission
    false = msgspec.structs.replace(admission, sealing_key=LIARS_KEY.public)
    member = msgspec.structs.replace(
        world.law.state.members[NODES[VICTIM].address],
        sealing_key=false.sealing_key,
        serial=2,
        signature=key("registrar").sign(world.law.domain, false),
    )
    world.law.state.members[NODES[VICTIM].address] = member
    with pytest.raises(PrivacyError, match="was not derived from this party's key"):
        world.announce(VICTIM)


# --- the others' masks -------------------------------------------------------------------------------------------


def forged(world: Masked) -> MaskAnnouncement:
    """Masks in the name of `OTHER` whose secrets the liars have."""
    cohort = dict.fromkeys(world.round.cohort, LIARS_KEY.public)
    return announce(world.task, 1, NODES[OTHER].address, cohort, secrets.token_bytes)[1]


def resigned(world: Masked, by: Signer, **other: int | bytes) -> Callable[[MaskBoard], None]:
    """The liars' masks in the name of `OTHER`, or its own, signed by `by` for something `other`."""

    def lie(board: MaskBoard) -> None:
        name = NODES[OTHER].address
        if not other:
            board.announced[name] = forged(world)
        notice = mask_notice(world.task, world.round, board.cohort, board.announced[name])
        board.signatures[name] = by.sign(world.law.domain, msgspec.structs.replace(notice, **other))

    return lie


def unsigned(board: MaskBoard) -> None:
    del board.signatures[NODES[OTHER].address]


def shortened(board: MaskBoard) -> None:
    name = NODES[OTHER].address
    board.announced[name] = msgspec.structs.replace(board.announced[name], shares=board.announced[name].shares[:-1])


def lengthened(board: MaskBoard) -> None:
    name = NODES[OTHER].address
    board.announced[name] = msgspec.structs.replace(board.announced[name], shares=board.announced[name].shares * 64)


def keyless(board: MaskBoard) -> None:
    name = NODES[OTHER].address
    board.announced[name] = msgspec.structs.replace(board.announced[name], public_key=bytes(32))


def taken_from_another(board: MaskBoard) -> None:
    board.announced[NODES[OTHER].address] = board.announced[NODES[2].address]
    board.signatures[NODES[OTHER].address] = board.signatures[NODES[2].address]


def from_outside(board: MaskBoard) -> None:
    name = NODES[OTHER].address
    board.announced[STRANGER.address], board.signatures[STRANGER.address] = board.announced[name], bytes(64)


def refused(world: Masked, lie: Callable[[MaskBoard], None], why: str) -> Unproven:
    def told(board: MaskBoard) -> MaskBoard:
        lie(board)
        return board

    world.committees[VICTIM].lies["masks"] = told
    with pytest.raises(Unproven, match=why) as error:
        world.board(VICTIM)
    assert world.maskings[VICTIM].secrets(world.task, 1)  # they masked nothing
    del world.committees[VICTIM].lies["masks"]
    world.board(VICTIM)  # and the truth is still good enough
    return error.value


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        pytest.param(unsigned, "bears no signature", id="unsigned"),
        pytest.param(taken_from_another, "was signed by", id="another node's"),
        pytest.param(shortened, "fits no invited node, or not this cohort", id="too short"),
        pytest.param(lengthened, "fits no invited node, or not this cohort", id="too long"),
        pytest.param(keyless, "fits no invited node, or not this cohort", id="small order"),
    ],
)
def test_masks_that_are_not_a_nodes_own_are_refused_by_name(
    world: Masked, lie: Callable[[MaskBoard], None], why: str
) -> None:
    world.announce()
    assert NAMED in refused(world, lie, why).message


def test_masks_that_the_liars_made_and_signed_are_refused(world: Masked) -> None:
    world.announce()
    error = refused(world, resigned(world, STRANGER), f"was signed by 0x{STRANGER.address.hex()}")
    assert NAMED in error.message
    assert error.hint is not None
    assert error.code == "unproven"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"task": keccak(b"another")}, id="task"),
        pytest.param({"round": 2}, id="round"),
        pytest.param({"epoch": 1}, id="epoch"),
        pytest.param({"cohort": keccak(b"another")}, id="cohort"),
        pytest.param({"parent_model": keccak(b"another")}, id="parent model"),
        pytest.param({"examples_cap": 2**31}, id="weight"),
    ],
)
def test_masks_that_their_node_signed_for_something_else_are_refused(
    world: Masked, other: dict[str, int | bytes]
) -> None:
    world.announce()
    assert NAMED in refused(world, resigned(world, NODES[OTHER], **other), "was signed by").message


def test_masks_of_a_stranger_are_refused(world: Masked) -> None:
    world.announce()
    assert f"0x{STRANGER.address.hex()}" in refused(world, from_outside, "fits no invited node").message


def test_masks_of_an_earlier_round_are_refused(world: Masked) -> None:
    world.accepted()
    earlier = world.law.state.boards[world.task]
    world.complete()
    world.open(2)
    for masking in world.maskings:
        masking.discard_before(world.task, 2)
    world.announce()
    name = NODES[OTHER].address

    def replayed(board: MaskBoard) -> MaskBoard:
        board.announced[name], board.signatures[name] = earlier.announced[name], earlier.signatures[name]
        return board

    world.committees[VICTIM].lies["masks"] = replayed
    with pytest.raises(Unproven, match=NAMED):
        world.board(VICTIM)


def test_too_few_announcements_mask_nothing(world: Masked) -> None:
    world.announce()

    def lie(board: MaskBoard) -> None:
        for node in NODES[2:]:
            del board.announced[node.address]

    refused(world, lie, "2 nodes announced masks for round 1, 3 are needed")


def test_a_vector_is_masked_with_what_this_node_announced_and_no_other_announcements_later(world: Masked) -> None:
    world.announce()

    def without_mine(board: MaskBoard) -> None:
        del board.announced[NODES[VICTIM].address]

    refused(world, without_mine, "shows not what this node announced")  # and then it took the true ones
    world.committees[VICTIM].lies["masks"] = lambda board: board.announced.pop(NODES[3].address) and board
    with pytest.raises(Unproven, match="changed"):
        world.board(VICTIM)


# --- one set for all ---------------------------------------------------------------------------------------------


def test_a_confirmation_that_is_not_its_nodes_own_keeps_the_shares_back(world: Masked) -> None:
    world.accepted()
    world.confirm()
    for signature, why in ((bytes(64), "bears no signature"), (STRANGER.sign_digest(bytes(32)), "was signed by")):
        lie = world.without()
        lie.confirmed = {**world.round.confirmed, NODES[OTHER].address: signature}
        with pytest.raises(Unproven, match=why) as error:
            world.reveal(VICTIM, shown=lie)
        assert NAMED in error.value.message
    lie = world.without()
    lie.confirmed = {**world.round.confirmed, STRANGER.address: bytes(64)}
    with pytest.raises(Unproven, match="has no accepted update"):
        world.reveal(VICTIM, shown=lie)


def test_confirmations_of_another_set_keep_the_shares_back(world: Masked) -> None:
    world.accepted()
    shown = world.without(3)
    with pytest.raises(Rejected):  # the law knows better; the committee kept the signature
        world.confirm(OTHER, shown=shown)
    world.confirm(VICTIM)
    lie = world.without()
    lie.confirmed = {NODES[OTHER].address: world.said(OTHER, ConfirmSet)[0].signature, **world.round.confirmed}
    with pytest.raises(Unproven, match=NAMED):
        world.reveal(VICTIM, shown=lie)


def test_an_update_of_a_node_without_masks_is_not_confirmed(world: Masked) -> None:
    world.accepted()
    lie = world.without()
    lie.submissions[STRANGER.address] = lie.submissions[NODES[OTHER].address]
    with pytest.raises(Unproven, match=f"without masks that this node knows: 0x{STRANGER.address.hex()}"):
        world.confirm(VICTIM, shown=lie)


def reveals_for_two_sets(root: Path, colluding: int, shown_first: tuple[int, ...]) -> tuple[set[int], set[int]]:
    """The honest nodes that reveal for the set of all four, shown to `shown_first`, and for the set without node 0,
    shown to the others. All replicas lie; the last `colluding` nodes sign anything and reveal for both."""
    world = Masked(root)
    world.accepted()
    board, honest = world.law.state.boards[world.task], len(NODES) - colluding
    sides = [
        (world.without(), shown_first),
        (world.without(0), tuple(place for place in range(honest) if place not in shown_first)),
    ]
    revealed: list[set[int]] = []
    for shown, side in sides:
        said = accepted_set(world.task, shown, board.fixed)
        for liar in NODES[honest:]:
            shown.confirmed[liar.address] = liar.sign(world.law.domain, said)
        for place in side:
            world.committees[place].lies["submit"] = lambda operation: operation
            world.confirm(place, shown=shown)
            shown.confirmed[NODES[place].address] = world.said(place, ConfirmSet)[0].signature
        for place in side:
            with contextlib.suppress(Unproven):
                world.reveal(place, shown=shown)
        revealed.append({place for place in side if world.said(place, RevealShares)})
    return revealed[0], revealed[1]


@pytest.mark.parametrize("colluding", [0, 1])
def test_two_sets_are_never_both_revealed_for_with_a_third_of_the_nodes_or_fewer(
    tmp_path: Path, colluding: int
) -> None:
    assert 2 * threshold(len(NODES)) > len(NODES) + colluding
    for count in range(len(NODES) - colluding + 1):
        for shown in combinations(range(len(NODES) - colluding), count):
            if 0 not in shown:
                continue  # it is asked for the set that it is in
            first, second = reveals_for_two_sets(tmp_path / str((colluding, shown)), colluding, shown)
            assert not (first and second), shown


def test_with_more_colluding_nodes_both_secrets_of_a_node_would_be_known(tmp_path: Path) -> None:
    """Two of four: the paper's bound is tight, and the documents say so."""
    assert 2 * threshold(len(NODES)) == len(NODES) + 2
    first, second = reveals_for_two_sets(tmp_path, 2, (0,))
    assert len(first) + 2 == len(second) + 2 == threshold(len(NODES))
