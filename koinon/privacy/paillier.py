"""Mode `paillier`: packed Paillier ciphertexts that anybody adds, opened by 2f+1 replicas, checked by anybody.

Encryption (Paillier 1999; Damgård, Jurik, Nielsen 2010): c = (1 + m*n) * hs^a mod n^2, with `packing` for m and a
short random a. These are ordinary Paillier ciphertexts: stock phe adds and decrypts them.

Opening (threshold n-th roots, see `paillier_key`): let c be a summed ciphertext, c = (1 + m*n) * r^n mod n^2, and
x = c mod n = r^n mod n. Replica j publishes x^s_j mod n. With D = n_replicas! and the integer Lagrange coefficients
L_j of any 2f+1 replicas, prod (x^s_j)^(2 L_j) = r^(2 D^2 k), and 2 D^2 k = 1 + l*n for a small l: so r is that product
times x^-l mod n. The factor 2 makes the sign of a partial irrelevant. Then comes r^n mod n^2, which is nearly all that
combining costs, and c = r^n + m*n*r^n gives m; c - r^n is divisible by n if and only if r is the root: a lie is found
by its result, and another subset is tried.

Witness: m and r of every summed ciphertext. Whoever has the public key checks raw_encrypt(m, r_value=r) = c, here all
at once: prod c_i^e_i = (1 + n * sum e_i m_i) * (prod r_i^e_i)^n mod n^2, for 128-bit e_i drawn from a hash of
everything (Bellare, Garay, Rabin 1998). 1 + n has only huge orders, so that a wrong m passes with probability 2^-128
(an r of the wrong sign might pass: it encrypts the same m). One ciphertext is re-encrypted by stock phe.

    public part   ciphertexts, big-endian, two key widths each, then a proof of plaintext knowledge (`knowledge`)
    piece         none
    component j   the partials of replica j, one key width each
    witness       (m, r), one key width each

Known limits. A node may encrypt anything; overflowing slots cannot be attributed to a node. Powers are not
constant-time. Opening a sum tells 2f+1 replicas nothing but the sum; 2f+1 colluding replicas can open every update.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import combinations

import gmpy2
from gmpy2 import mpz

from koinon.encoding import keccak
from koinon.errors import BadPiece, CannotOpen

from .agreement import require_cohort, require_cohort_opens
from .fixed_point import require_in_range
from .knowledge import proof_bytes, prove_knowledge, require_knowledge
from .mode import Entropy, Held, Opened, Protected, Setting, Transcript, Values
from .modular import lagrange_at_zero, powers, product_of_powers
from .packing import Slots
from .paillier_key import PublicKey, key_of, masks_of, share_of
from .phe_interop import require_encryption

CHALLENGE_BYTES = 16
SEARCH_BYTES = 8


class Paillier:
    """See the module; implements `koinon.privacy.mode.Mode`."""

    name: str = "paillier"

    def protect(self, setting: Setting, node: bytes, values: Values, entropy: Entropy) -> Protected:
        key = key_of(setting)
        require_in_range(values, dimension=setting.dimension, bits=setting.bits)
        source, plains = masks_of(key), _slots(setting, key).pack(values)
        drawn = [source.take(entropy) for _ in plains]
        pairs = zip(plains, drawn, strict=True)
        ciphertexts = _join(((1 + m * key.n) * mask % key.n2 for m, (_, mask) in pairs), key.cipher_bytes)
        proof = prove_knowledge(setting, key, node, ciphertexts, plains, [exponent for exponent, _ in drawn], entropy)
        return Protected(ciphertexts + proof, (b"",) * setting.replicas)

    def check(self, setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> None:
        if piece:
            raise BadPiece(f"node 0x{node.hex()} sent a piece of {len(piece)} bytes where this mode has none")
        require_proof(setting, node, public)

    def share_with(self, setting: Setting, piece: bytes, replica: int) -> bytes:
        return b""

    def merge(self, setting: Setting, node: bytes, public: bytes, replica: int, parts: Sequence[bytes]) -> bytes:
        ciphertexts_of(setting, node, public)
        return b""

    def combine(self, setting: Setting, replica: int, updates: Sequence[Held]) -> dict[int, bytes]:
        """This replica's partial openings of the sum, under its own index as the number."""
        key = key_of(setting)
        share = share_of(setting, replica)
        require_cohort(setting, updates)
        for held in updates:
            if held.piece:
                raise BadPiece(f"a piece of node 0x{held.node.hex()} where this mode has none")
        sums = _sum(setting, key, {held.node: held.public for held in updates})
        return {replica: _join(powers([c % key.n for c in sums], share, key.n), key.plain_bytes)}

    def open(self, setting: Setting, transcript: Transcript) -> Opened:
        key = key_of(setting)
        require_cohort_opens(setting, transcript.publics)
        slots = _slots(setting, key)
        sums = _sums_of_accepted(setting, key, transcript.publics)
        partials, liars = _collect(setting, key, slots, transcript)
        valid, outsiders = _agreeing_subsets(setting, key, sums, partials)
        for subset in valid:
            roots = _roots(key, [c % key.n for c in sums], {j: partials[j] for j in subset})
            plains = _plaintexts(key, sums, roots)
            if plains is None:
                continue
            _require_no_overflow(slots, plains)
            silent = setting.replicas - len(partials) - len(liars)
            if silent <= setting.replicas - 3 * setting.faulty - 1:  # else an honest subset may be missing
                liars |= outsiders
            witness = _join((part for pair in zip(plains, roots, strict=True) for part in pair), key.plain_bytes)
            return Opened(slots.unpack(plains, len(transcript.publics)), witness, tuple(sorted(liars)))
        raise CannotOpen(
            f"no {2 * setting.faulty + 1} of the replicas {sorted(partials)} open the sum together "
            f"(wrong in form: {sorted(liars)}; silent or missing: the others)"
        )

    def verify(self, setting: Setting, transcript: Transcript, witness: bytes) -> Values:
        """Needs the public parts and `witness` only: nobody is trusted."""
        key = key_of(setting)
        require_cohort_opens(setting, transcript.publics)
        slots = _slots(setting, key)
        sums = _sums_of_accepted(setting, key, transcript.publics)
        plains, roots = _parse_witness(key, slots, witness)
        require_openings(key, sums, plains, roots)
        return slots.unpack(plains, len(transcript.publics))


def prepare(setting: Setting, entropy: Entropy) -> None:
    """Make the randomness of the next update under this key, while there is nothing else to do."""
    key = key_of(setting)
    masks_of(key).fill(_slots(setting, key).integers, entropy)


def require_proof(setting: Setting, node: bytes, public: bytes) -> None:
    """BadPiece unless the public part proves that `node` knows what it encrypted for this round."""
    key, ciphertexts = key_of(setting), ciphertexts_of(setting, node, public)
    size = len(ciphertexts) * key.cipher_bytes
    require_knowledge(setting, key, node, public[:size], ciphertexts, public[size:])


def ciphertexts_of(setting: Setting, node: bytes, public: bytes) -> list[mpz]:
    """The ciphertexts of a public part; BadPiece when their number is wrong or one is outside the group."""
    key = key_of(setting)
    size = _slots(setting, key).integers * key.cipher_bytes
    expected = size + proof_bytes(key)
    if len(public) != expected:
        raise BadPiece(f"the ciphertexts of node 0x{node.hex()} have {len(public)} bytes instead of {expected}")
    ciphertexts = _split(public[:size], key.cipher_bytes)
    if not all(0 < c < key.n2 for c in ciphertexts) or not _all_units(key, ciphertexts):
        raise BadPiece(f"a ciphertext of node 0x{node.hex()} is outside the group")
    return ciphertexts


def summed(setting: Setting, publics: Mapping[bytes, bytes]) -> list[mpz]:
    """The ciphertexts of the sum of all updates, for anybody who wants to check a witness with stock phe."""
    return _sum(setting, key_of(setting), publics)


def openings(setting: Setting, witness: bytes) -> list[tuple[mpz, mpz]]:
    """The (plaintext, randomness) pairs of a witness, unchecked against any ciphertext."""
    key = key_of(setting)
    return list(zip(*_parse_witness(key, _slots(setting, key), witness), strict=True))


def require_openings(key: PublicKey, sums: Sequence[mpz], plains: Sequence[mpz], roots: Sequence[mpz]) -> None:
    """CannotOpen unless sums[i] encrypts plains[i] (with randomness roots[i] up to an element of small order)."""
    seed = _digest(key, sums, plains, roots)
    challenges = _challenges(seed, len(sums))
    left = product_of_powers(sums, challenges, key.n2)
    total = sum((mpz.from_bytes(e, "big") * m for e, m in zip(challenges, plains, strict=True)), mpz(0))
    root = product_of_powers(roots, challenges, key.n)
    if left != (1 + total % key.n * key.n) * gmpy2.powmod(root, key.n, key.n2) % key.n2:
        raise CannotOpen("the witness does not open the sum of the accepted ciphertexts")
    sample = int.from_bytes(keccak(seed), "big") % len(sums)
    require_encryption(key, sums[sample], plains[sample], roots[sample])


# --- the pieces of an opening ----------------------------------------------------------------------------------


def _roots(key: PublicKey, residues: Sequence[mpz], partials: Mapping[int, Sequence[mpz]]) -> list[mpz]:
    """r for each x = r^n mod n, if the partials are right: prod partial_j^(2 L_j) * x^-l, with one inversion each."""
    coefficients = lagrange_at_zero([j + 1 for j in partials], key.replicas)
    above: list[list[mpz]] = []
    below = [powers(residues, 2 * key.delta**2 * key.scale // key.n, key.n)]
    for j, column in partials.items():
        coefficient = 2 * coefficients[j + 1]
        side = above if coefficient > 0 else below
        side.append(powers(column, mpz(abs(coefficient)), key.n))
    numerators = [_product(key, row) for row in zip(*above, strict=True)]
    denominators = [_product(key, row) for row in zip(*below, strict=True)]
    return [a * gmpy2.invert(b, key.n) % key.n for a, b in zip(numerators, denominators, strict=True)]


def _agreeing_subsets(
    setting: Setting, key: PublicKey, sums: Sequence[mpz], partials: Mapping[int, Sequence[mpz]]
) -> tuple[list[tuple[int, ...]], frozenset[int]]:
    """Subsets of 2f+1 replicas whose partials take the root, and the replicas that are in none of them.

    All ciphertexts are folded into one by random exponents first (short ones: what passes wrongly is found out when it
    opens nothing); the search ends when nobody is left to clear.
    """
    columns = list(partials.values())
    challenges = _challenges(_digest(key, sums, *columns), len(sums), SEARCH_BYTES)
    residue = product_of_powers([c % key.n for c in sums], challenges, key.n)
    folded = {j: [product_of_powers(column, challenges, key.n)] for j, column in partials.items()}
    valid: list[tuple[int, ...]] = []
    suspects = set(partials)
    for subset in combinations(sorted(partials), 2 * setting.faulty + 1):
        (root,) = _roots(key, [residue], {j: folded[j] for j in subset})
        if gmpy2.powmod(root, key.n, key.n) == residue:
            valid.append(subset)
            suspects -= set(subset)
        if not suspects:
            break
    return valid, frozenset(suspects)


def _plaintexts(key: PublicKey, sums: Sequence[mpz], roots: Sequence[mpz]) -> list[mpz] | None:
    """m of each c = (1 + m*n) * r^n mod n^2, or None when some r is no root."""
    plains = []
    for c, mask in zip(sums, powers(roots, key.n, key.n2), strict=True):
        masked, rest = gmpy2.f_divmod((c - mask) % key.n2, key.n)
        if rest:
            return None
        plains.append(masked * gmpy2.invert(mask, key.n) % key.n)
    return plains


def _collect(
    setting: Setting, key: PublicKey, slots: Slots, transcript: Transcript
) -> tuple[dict[int, list[mpz]], frozenset[int]]:
    """The well-formed partials by replica, and the replicas that signed something else."""
    partials: dict[int, list[mpz]] = {}
    liars: set[int] = set()
    for j in range(setting.replicas):
        signed = transcript.digests.get(j, {})
        if set(signed) - {j}:
            liars.add(j)
        data = transcript.components.get(signed[j]) if set(signed) == {j} else None
        if data is None or keccak(data) != signed[j]:
            continue
        column = _split(data, key.plain_bytes)
        right_size = len(data) == slots.integers * key.plain_bytes
        if right_size and all(0 < p < key.n for p in column) and _all_units(key, column):
            partials[j] = column
        else:
            liars.add(j)
    return partials, frozenset(liars)


# --- small helpers -----------------------------------------------------------------------------------------------


def _slots(setting: Setting, key: PublicKey) -> Slots:
    return Slots.of(dimension=setting.dimension, bits=setting.bits, cohort=setting.cohort, modulus_bits=key.bits)


def _sum(setting: Setting, key: PublicKey, publics: Mapping[bytes, bytes]) -> list[mpz]:
    total: list[mpz] = []
    for node, public in publics.items():
        ciphertexts = ciphertexts_of(setting, node, public)
        total = [a * b % key.n2 for a, b in zip(total, ciphertexts, strict=True)] if total else ciphertexts
    return total


def _sums_of_accepted(setting: Setting, key: PublicKey, publics: Mapping[bytes, bytes]) -> list[mpz]:
    try:
        return _sum(setting, key, publics)
    except BadPiece as error:
        raise CannotOpen(error.message) from None


def _parse_witness(key: PublicKey, slots: Slots, witness: bytes) -> tuple[list[mpz], list[mpz]]:
    expected = 2 * slots.integers * key.plain_bytes
    if len(witness) != expected:
        raise CannotOpen(f"a witness of {len(witness)} bytes instead of {expected}")
    numbers = _split(witness, key.plain_bytes)
    plains, roots = numbers[0::2], numbers[1::2]
    _require_no_overflow(slots, plains)
    if not all(0 < r < key.n for r in roots) or not _all_units(key, roots):
        raise CannotOpen("the randomness in a witness is outside the group")
    return plains, roots


def _require_no_overflow(slots: Slots, plains: Sequence[mpz]) -> None:
    if any(m.bit_length() > slots.integer_bits for m in plains):
        raise CannotOpen("the sum overflows its slots: some node encrypted what is no packed update")


def _all_units(key: PublicKey, values: Iterable[mpz]) -> bool:
    return bool(gmpy2.gcd(_product(key, values), key.n) == 1)


def _product(key: PublicKey, values: Iterable[mpz]) -> mpz:
    return reduce(lambda a, b: a * b % key.n, values, mpz(1))


def _digest(key: PublicKey, sums: Sequence[mpz], *columns: Sequence[mpz]) -> bytes:
    fields = [b"koinon/paillier/batch", key.n.to_bytes(key.plain_bytes, "big"), _join(sums, key.cipher_bytes)]
    fields += [_join(column, key.plain_bytes) for column in columns]
    return keccak(b"".join(keccak(field) for field in fields))


def _challenges(seed: bytes, count: int, width: int = CHALLENGE_BYTES) -> list[bytes]:
    stream = hashlib.shake_256(seed).digest(width * count)
    return [stream[i : i + width] for i in range(0, len(stream), width)]


def _join(values: Iterable[mpz], width: int) -> bytes:
    return b"".join(value.to_bytes(width, "big") for value in values)


def _split(data: bytes, width: int) -> list[mpz]:
    return [mpz.from_bytes(data[i : i + width], "big") for i in range(0, len(data), width)]
