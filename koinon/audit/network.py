"""The checks of a network as a whole: the chain and its contracts, the committee, the ordered log."""

from __future__ import annotations

from koinon.encoding import digest, from_hex, to_hex
from koinon.errors import AuditFailure

from .chain import ChainFacts
from .evidence import Evidence
from .history import History, law_of, require_none
from .report import Report, Skipped


def check_network(report: Report, evidence: Evidence) -> None:
    """Chain id and genesis, the deployed code, and the committee that the contract knows."""
    facts, file = evidence.chain, evidence.federation
    with report.check("chain id and genesis") as place:
        known = require_chain(facts, "wrong-chain")
        place.block = known.head.number
        place.say(f"chain {file.chain_id}, genesis {file.genesis_hash[:18]}")
    with report.check("deployed contracts") as place:
        known = require_chain(facts)
        place.block = known.head.number
        place.say("the code at all five addresses is this version's, and they belong together")
    with report.check("committee on chain") as place:
        known = require_chain(facts)
        _require_committee(evidence, known)
        place.say(f"epoch {file.epoch}: {len(file.replicas)} replicas, {file.quorum} signatures speak for them")


def require_chain(facts: ChainFacts | None, *codes: str) -> ChainFacts:
    """The facts; AuditFailure when the chain is not the federation's (for reasons in `codes`), else Skipped."""
    if facts is None:
        raise Skipped("no record of the chain is at hand")
    if facts.refusal is None:
        return facts
    code, message = facts.refusal
    if not codes and code == "wrong-chain":
        raise Skipped("it is another chain")
    if codes and code not in codes:
        return facts
    raise AuditFailure(message)


def usable_chain(facts: ChainFacts | None) -> ChainFacts:
    """The facts of the federation's own contracts; Skipped when there are none."""
    if facts is None or facts.refusal is not None:
        raise Skipped("no record of the federation's contracts is at hand")
    return facts


def _require_committee(evidence: Evidence, facts: ChainFacts) -> None:
    file = evidence.federation
    if facts.refusal is not None:
        raise Skipped("the contracts are not the federation's")
    record = facts.committee(file.epoch)
    if record is None:
        raise AuditFailure(f"the chain knows no epoch {file.epoch}, which federation.json names")
    if len(record.members) != len(file.replicas) or record.quorum != file.quorum:
        raise AuditFailure(f"{len(record.members)} replicas on chain, {len(file.replicas)} in federation.json")
    for index, (said, member) in enumerate(zip(file.replicas, record.members, strict=True)):
        if from_hex(said.address) != member.address:
            raise AuditFailure(
                f"replica {index} is {to_hex(member.address)} on chain, {said.address} in federation.json"
            )
        if from_hex(said.sealing_key) != member.sealing_key:
            raise AuditFailure(f"replica {index} has another sealing key on chain than in federation.json")


def check_log(report: Report, evidence: Evidence, history: History) -> None:
    """Certificates of the log, signatures in it, agreement of its keepers, and the replay under the law."""
    present = [log for log in evidence.logs if not log.absent]
    with report.check("log certificates") as place:
        if not present:
            raise AuditFailure(f"nobody keeps a log: {'; '.join(log.absent for log in evidence.logs)}")
        require_none(history.certificates)
        if not history.entries:
            raise AuditFailure("no log begins at entry 1")
        place.say(f"{len(history.entries)} entries, each with {_quorums(history)} members' signatures, no gap")
    with report.check("committees") as place:
        place.say(_require_succession(evidence, history))
    with report.check("log requests") as place:
        require_none(history.requests)
        total = sum(len(entry.batch.requests) for entry in history.entries)
        place.say(f"{total} requests signed by their senders")
    with report.check("replicas agree") as place:
        require_none(history.disagreements)
        heads = ", ".join(f"{log.replica}: {log.entries[-1].sequence if log.entries else 0}" for log in present)
        missing = [f"replica {log.replica} is not heard" for log in evidence.logs if log.absent]
        if len(present) < evidence.federation.faulty + 1:
            raise AuditFailure(f"too few logs to compare: {'; '.join(missing)}")
        place.say("; ".join([f"one log, up to entry {heads} (replica: entry)", *missing]))
    with report.check("replay under the law") as place:
        law = law_of(history)
        _require_states(evidence, history)
        place.say(
            f"{len(history.executed)} operations took effect, {history.refused} were refused; "
            f"{len(law.state.tasks)} tasks, {len(law.state.members)} members"
        )
    if history.entries:
        head = history.entries[-1]
        report.log_head = (head.sequence, digest(head))


def _quorums(history: History) -> str:
    return ", then ".join(str(file.quorum) for _, file in sorted(history.committees.items()))


def _require_succession(evidence: Evidence, history: History) -> str:
    """AuditFailure when the chain knows another committee of an epoch than the log leads to."""
    facts, said = evidence.chain, []
    for epoch, file in sorted(history.committees.items()):
        record = facts.committee(epoch) if facts is not None and facts.refusal is None else None
        if record is not None and record.addresses != file.replica_addresses:
            raise AuditFailure(f"the chain knows another committee of epoch {epoch} than the log leads to")
        where = "as on chain" if record is not None else "not on chain (yet)"
        said.append(f"epoch {epoch}: {len(file.replicas)} replicas, {where}")
    return "; ".join(said)


def _require_states(evidence: Evidence, history: History) -> None:
    """AuditFailure when f+1 replicas report certified rounds that the log does not yield."""
    if evidence.tasks is None:
        return
    replayed = law_of(history).state.tasks
    for identity, said in evidence.tasks.items():
        task = replayed.get(identity)
        if task is None:
            raise AuditFailure(f"the replicas report a task {to_hex(identity)} that is not in the log")
        for round_ in said.rounds:
            mine = task.round(round_.number)
            if round_.certificate is not None and (mine is None or mine.certificate != round_.certificate):
                raise AuditFailure(f"round {round_.number}: the replicas report a certificate that is not in the log")
