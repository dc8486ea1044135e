"""What replicas that all lie to a node of mode `masked` get out of it: a man in the middle of everybody's keys.

They show the victim sealing keys and masks of their own in the names of all others. The victim runs the code that
nodes run; a node that checks (`koinon.rounds.vouching`) finds no signature of the registrar, nor of the others, and
sends nothing. One that does not check (the control: what the attack is worth) sends a vector that they unmask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from koinon.encoding import encode, keccak
from koinon.errors import Unproven
from koinon.privacy import Entropy, SealingKey, mode
from koinon.privacy.masking import Masks, announce, reveal
from koinon.rounds.operations import TaskSpec
from koinon.rounds.state import MaskBoard, Member, Round
from koinon.rounds.vouching import cohort_digest, mask_notice, require_announced, require_invited
from koinon.signing import Domain, Signer
from koinon.wire import MaskAnnouncement, Role

from ._adversaries import View
from ._victims import Kept, Sent

DOMAIN = Domain(31337, b"\x22" * 20)
REGISTRAR, LIARS = Signer(keccak(b"the registrar")), Signer(keccak(b"the replicas"))


def lied_to(sent: Sent, kept: Kept, *, checking: bool) -> list[View]:
    """For each node that falls for it, what the replicas have then."""
    found = (deceive(sent, kept, victim, checking=checking) for victim in sorted(kept.values))
    return [view for view in found if view is not None]


def deceive(sent: Sent, kept: Kept, victim: bytes, *, checking: bool) -> View | None:
    """Show `victim` a cohort and masks of the liars' own; None when it refuses them."""
    entropy: Entropy = np.random.default_rng([sent.setting.round, *victim]).bytes
    setting, true = sent.setting, sent.setting.masks
    if true is None:
        raise ValueError("only mode masked has masks")
    sealing = {node: SealingKey(entropy(32)) for node in true.cohort} | {victim: kept.node_sealing[victim]}
    keys = {node: key.public for node, key in sealing.items()}
    made = {node: announce(setting.task, setting.round, node, keys, entropy) for node in true.cohort}
    forged = Masks(setting.task, setting.round, true.cohort, {node: said for node, (_, said) in made.items()})
    if checking and not believed(sent, victim, keys, forged.announced):
        return None
    mine = replace(setting, masks=forged, key_share=encode(made[victim][0]))
    public = mode("masked").protect(mine, victim, kept.values[victim], entropy).public
    others = [node for node in true.cohort if node != victim]
    revealed = {node: reveal(forged, node, sealing[node], [victim]) for node in others}
    return View(
        replace(setting, masks=replace(forged, revealed=revealed)),
        {victim: public},
        masks={node: made[node][0] for node in others},
        sealing={node: sealing[node] for node in others},
    )


def believed(
    sent: Sent, victim: bytes, keys: Mapping[bytes, bytes], announced: Mapping[bytes, MaskAnnouncement]
) -> bool:
    """Whether a node believes the liars' sealing keys, or, the keys being true, their masks."""
    setting, cohort = sent.setting, tuple(sorted(keys))
    spec = TaskSpec(
        name="attack", app="attack", mode="masked", strategy="fedavg", rounds=1,
        initial_model=bytes(32), dimension=setting.dimension,
    )  # fmt: skip
    round_ = Round(setting.round, "announcing", bytes(32), cohort, examples_cap=1, opened_ms=0, deadline_ms=1)
    try:
        require_invited(DOMAIN, REGISTRAR.address, spec, round_, _members(keys, LIARS), victim)
    except Unproven:
        pass
    else:
        return True
    members = _members(keys, REGISTRAR)
    require_invited(DOMAIN, REGISTRAR.address, spec, round_, members, victim)  # the registrar's own word is believed
    digest = cohort_digest(members, cohort)
    board = MaskBoard(cohort=digest, announced=dict(announced))
    for node, said in announced.items():
        board.signatures[node] = LIARS.sign(DOMAIN, mask_notice(setting.task, round_, digest, said))
    try:
        require_announced(DOMAIN, setting.task, round_, digest, board)
    except Unproven:
        return False
    return True


def _members(keys: Mapping[bytes, bytes], by: Signer) -> dict[bytes, Member]:
    """The cohort with these sealing keys, admitted by `by`."""
    members = {}
    for node, key in keys.items():
        member = Member(int(Role.NODE), examples_max=1, sealing_key=key, serial=1, active=True, joined_ms=0)
        member.signature = by.sign(DOMAIN, member.admission(node))
        members[node] = member
    return members
