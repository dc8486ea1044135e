"""The three phases and execution (Castro & Liskov 1999, section 4.2): pre-prepare, prepare, commit."""

from __future__ import annotations

from koinon.errors import InvariantBroken, Malformed
from koinon.wire import Batch, CommittedBatch, Phase, Reply, Vote

from .certificates import batch_digest
from .core import Core
from .events import ClocksDiffer, Committed, Evidence, Refuse, Respond, Send
from .log import Slot
from .messages import Ballot, Body, Fetch, PreparedProof, PrePrepare


class Ordering(Core):
    """Normal operation."""

    # --- the primary

    def _propose(self) -> None:
        """Assign sequence numbers while there are requests, room in the pipeline and room below the high mark.

        An idle pipeline takes what is there at once; a busy one waits for a full batch or the batch delay, so
        that batches grow with the load. While a change of the committee is pending it orders empty batches up to the
        handover, rather than wait for clients.
        """
        if not self.active or self.primary != self.index or self.silent:
            return
        settings = self.settings
        while self.pool.ready() or self._pending_change():
            in_flight = self._assigned - max(self.executed, self.log.low)
            if in_flight >= settings.pipeline_slots_max:
                return
            waited = self.now_ms - self._proposed_time_ms
            if in_flight > 0 and self.pool.ready() < settings.batch_requests_max and waited < settings.batch_delay_ms:
                return
            if self._assigned >= self._bound():
                return
            requests = self.pool.take(settings.batch_requests_max, settings.batch_bytes_max)
            self._proposed_time_ms = max(self._proposed_time_ms, self.now_ms)
            self._pre_prepare(Batch(time_ms=self._proposed_time_ms, requests=tuple(requests)))

    def _pre_prepare(self, batch: Batch) -> None:
        self._assigned += 1
        slot, named = self._slot(self._assigned), batch_digest(batch)
        signature = self._sign_vote(Phase.PRE_PREPARE, slot.sequence, named).signature
        message = PrePrepare(epoch=self.epoch, view=self.view, sequence=slot.sequence, batch=batch, signature=signature)
        self._persist(message)
        self._broadcast(message)
        self._accept(slot, message, named)

    # --- the backups

    def _in_window(self, sender: int, message: PrePrepare | Ballot, view: int, sequence: int) -> bool:
        """Whether a message is about the current view and between the watermarks; keeps it if it is early."""
        if view < self.view:
            self._ignore(sender, "old-view")
        elif sequence <= self.log.low:
            self._ignore(sender, "below-window")
        elif view > self.view or not self.active:
            self._defer(sender, message, "early-view")
        elif sequence > self.log.high:
            self._defer(sender, message, "above-window")
        elif sequence > self._bound():
            self._ignore(sender, "above-handover")
        else:
            return True
        return False

    def _on_pre_prepare(self, sender: int, message: PrePrepare) -> None:
        self._check_size(message.batch)
        if not self._in_window(sender, message, message.view, message.sequence):
            return
        named = self.verifier.pre_prepare(message)
        slot = self._slot(message.sequence)
        if slot.digest not in (None, named):
            self._report_primary(slot, message, named)
        elif slot.body(slot.digest) is not None:
            self._ignore(sender, "duplicate")
        elif slot.executed not in (None, named):
            raise Malformed(f"a batch for slot {slot.sequence}, where another one was executed")
        elif self._too_early(slot, message):
            self._defer(sender, message, "early-empty")
        else:
            if slot.digest is None:
                self._check_batch(message.batch)
                if not self._in_time(message):
                    return
            self._vote_prepare(slot, message, named)

    def _too_early(self, slot: Slot, message: PrePrepare) -> bool:
        """Whether an empty batch may turn out right: the change that allows it may lie in an entry before it."""
        judged = slot.digest is not None or message.batch.requests or self._pending_change()
        return not judged and self.executed + 1 < message.sequence

    def _check_size(self, batch: Batch) -> None:
        """Before a batch is deferred or its digest is cached: a liar's must not fill the memory."""
        settings = self.settings
        if len(batch.requests) > settings.batch_requests_max:
            raise Malformed(f"a batch of {len(batch.requests)} requests")
        if sum(map(len, batch.requests)) > max(settings.batch_bytes_max, settings.request_bytes_max):
            raise Malformed("a batch of too many bytes")

    def _check_batch(self, batch: Batch) -> None:
        """A backup's conditions for a new batch. One that a view change proposes again was checked before."""
        if not batch.requests and not self._pending_change():
            raise Malformed("a batch without requests, and no change of the committee is pending")
        for data in batch.requests:
            self.verifier.request(data)

    def _in_time(self, message: PrePrepare) -> bool:
        """Whether the primary's clock is near enough to ours. Who handed the batch in is not to blame if it isn't."""
        ahead_ms = message.batch.time_ms - self.now_ms
        if -self.settings.clock_skew_ms_max <= ahead_ms <= self.settings.clock_ahead_ms_max:
            return True
        self._clocks_differed = (self.view, self.now_ms)
        self._emit(ClocksDiffer(self.primary, message.sequence, message.batch.time_ms, ahead_ms))
        return False

    def _vote_prepare(self, slot: Slot, message: PrePrepare, named: bytes) -> None:
        """Accept a pre-prepare with its batch: write it down, then say PREPARE (the primary says nothing).

        A silent replica only follows: it promises nothing, and so has nothing to write down.
        """
        if not self.silent:
            self._persist(message)
        if self.primary != self.index and not self.silent:
            ballot = self._sign_vote(Phase.PREPARE, slot.sequence, named)
            slot.prepares[self.index] = ballot
            self._broadcast(ballot)
        self._accept(slot, message, named)

    def _accept(self, slot: Slot, message: PrePrepare, named: bytes) -> None:
        slot.digest, slot.primary_signature, slot.since_ms = named, message.signature, self.now_ms
        slot.bodies[named] = message.batch
        for data in message.batch.requests:
            sender, request = self.verifier.request(data)
            self.pool.propose((sender, request.number), self.now_ms)
        self._try_prepared(slot)

    def _on_ballot(self, sender: int, message: Ballot) -> None:
        vote = message.vote
        if vote.phase not in (Phase.PREPARE, Phase.COMMIT):
            raise Malformed(f"a ballot of phase {vote.phase}")
        if not self._in_window(sender, message, vote.view, vote.sequence):
            return
        slot = self._slot(vote.sequence)
        done = slot.prepared if vote.phase == Phase.PREPARE else slot.committed
        if done and vote.digest == slot.digest:  # it would change nothing: spare the verification
            self._ignore(sender, "late-vote")
            return
        signer = self.verifier.member(vote, message.signature)
        if vote.phase == Phase.PREPARE and signer == self.primary:
            raise Malformed("a PREPARE from the primary")
        held = slot.votes(vote.phase).get(signer)
        if held is not None:
            if held.vote == vote:
                self._ignore(sender, "duplicate")
            else:
                self._report(slot, signer, held, message)
            return
        slot.votes(vote.phase)[signer] = message
        if vote.phase == Phase.PREPARE:
            self._try_prepared(slot)
        else:
            self._try_committed(slot)

    # --- evidence

    def _report(self, slot: Slot, culprit: int, first: Ballot, second: Ballot) -> None:
        """Once a culprit, phase and slot: one pair convicts."""
        if (culprit, first.vote.phase) not in slot.reported:
            slot.reported.add((culprit, first.vote.phase))
            self._emit(Evidence(culprit, first, second))
        else:
            self._ignore(culprit, "more-evidence")

    def _report_primary(self, slot: Slot, message: PrePrepare, named: bytes) -> None:
        if slot.digest is None:
            raise InvariantBroken("no accepted pre-prepare to contradict")
        phase, epoch, view, sequence = Phase.PRE_PREPARE, self.epoch, self.view, slot.sequence
        first, second = (
            Ballot(
                vote=Vote(phase=phase, epoch=epoch, view=view, sequence=sequence, digest=digest), signature=signature
            )
            for digest, signature in ((slot.digest, slot.primary_signature), (named, message.signature))
        )
        self._report(slot, self.primary, first, second)

    # --- certificates

    def _try_prepared(self, slot: Slot) -> None:
        """prepared(m, v, n, i): the pre-prepare and quorum-1 matching prepares. Write it down, then say COMMIT."""
        votes = slot.matching(Phase.PREPARE)[: self.committee.quorum - 1]
        if slot.prepared or slot.body(slot.digest) is None or len(votes) < self.committee.quorum - 1:
            return
        if slot.digest is None:
            raise InvariantBroken("prepared without a digest")
        slot.prepared = True
        slot.proof = PreparedProof(
            epoch=self.epoch,
            view=self.view,
            sequence=slot.sequence,
            digest=slot.digest,
            pre_prepare=slot.primary_signature,
            prepares=tuple(ballot.signature for _, ballot in votes),
        )
        if not self.silent:
            self._persist(slot.proof)
            ballot = self._sign_vote(Phase.COMMIT, slot.sequence, slot.digest)
            slot.commits[self.index] = ballot
            self._broadcast(ballot)
        self._try_committed(slot)

    def _try_committed(self, slot: Slot) -> None:
        """committed-local(m, v, n, i): prepared, and a quorum of matching commits. Execution follows in order."""
        if slot.prepared and not slot.committed and len(slot.matching(Phase.COMMIT)) >= self.committee.quorum:
            if slot.executed not in (None, slot.digest):
                raise InvariantBroken(f"slot {slot.sequence} was committed twice, with two digests")
            slot.committed = True
            self._execute_ready()

    # --- execution

    def _execute_ready(self) -> None:
        while True:
            slot = self.log.find(self.executed + 1)
            if slot is None or not slot.committed or slot.view != self.view or self.handed_over:
                return
            self._execute(slot.entry(self.committee.quorum), answer=True)

    def _execute(self, entry: CommittedBatch, *, answer: bool) -> None:
        """Execute a proven entry; `answer` is False when it comes from our own disk."""
        known_change = self._pending_change()
        done, skipped = self.execution.apply(entry.sequence, entry.batch)
        self._replay_due |= self._pending_change() and not known_change
        named = batch_digest(entry.batch)
        if entry.sequence in self.log:
            slot = self.log.slot(entry.sequence)
            slot.executed, slot.bodies[named] = named, entry.batch
        if answer:
            self._emit(Committed(entry, self.execution.time_ms, tuple(done)))
        known = [pending for one in done if (pending := self.pool.find(one.client, one.number)) is not None]
        self.pace.executed(known, len(done), self.pool.left_lying, self.now_ms)
        for one in done:
            self.pool.executed(one.client, one.number)
            if answer:
                self._respond(one.client, one.number, one.result)
        for other in skipped:
            if answer and (other.client, other.number) in self.pool:
                self._emit(Refuse(other.client, other.number, other.error))
            self.pool.drop(other.client, other.number)
        self._progress_ms = self.now_ms
        if entry.sequence % self.settings.checkpoint_interval == 0:
            self._make_checkpoint()

    def _respond(self, client: bytes, number: int, result: bytes) -> None:
        self._emit(Respond(Reply(view=self.view, client=client, number=number, result=result)))

    # --- batches that a NEW-VIEW named by digest

    def _on_fetch(self, sender: int, message: Fetch) -> None:
        slot = self.log.find(message.sequence)
        batch = slot.body(message.digest) if slot else None
        since_ms, count = self._fetched.get(sender, (0, 0))
        if self.now_ms - since_ms >= self.settings.status_ms // 2:
            since_ms, count = self.now_ms, 0
        if batch is None:
            self._ignore(sender, "unknown-body")
        elif count >= self.settings.resend_slots_max:
            self._ignore(sender, "fetch-too-soon")  # a few bytes ask for megabytes; who lacks more asks again
        else:
            self._fetched[sender] = since_ms, count + 1
            self._emit(Send(sender, Body(sequence=message.sequence, batch=batch)))

    def _on_body(self, sender: int, message: Body) -> None:
        self._check_size(message.batch)
        slot = self.log.find(message.sequence)
        wanted = slot is not None and slot.view == self.view and message.sequence <= self._bound() and self.active
        if slot is None or slot.digest is None or not wanted:
            self._ignore(sender, "unwanted-body")
        elif slot.body(slot.digest) is not None:
            self._ignore(sender, "duplicate")
        elif batch_digest(message.batch) != slot.digest:
            raise Malformed(f"the body of slot {message.sequence} has another digest")
        else:
            signature, epoch, view = slot.primary_signature, self.epoch, self.view
            pre_prepare = PrePrepare(
                epoch=epoch, view=view, sequence=slot.sequence, batch=message.batch, signature=signature
            )
            self._vote_prepare(slot, pre_prepare, slot.digest)
