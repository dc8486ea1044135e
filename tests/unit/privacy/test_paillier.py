"""Mode paillier: stock phe agrees both ways, 2f+1 open, anybody checks, and bad keys and bytes are refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from phe import paillier as phe

from koinon.encoding import decode, encode, keccak
from koinon.errors import BadPiece, CannotOpen, ConfigError
from koinon.privacy import Setting, Transcript
from koinon.privacy.knowledge import ANSWER_BYTES
from koinon.privacy.paillier import Paillier, ciphertexts_of, openings, prepare, summed
from koinon.privacy.paillier_key import (
    BITS_DEFAULT,
    PaillierKey,
    PaillierShare,
    generate_key,
    key_of,
    masks_of,
    parse_key,
)
from koinon.privacy.phe_interop import phe_key, phe_numbers
from tests.unit.privacy.federation import Federation, keys, node, primes, random_updates, seeded

pytestmark = pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
PAILLIER = Paillier()
WIDTH = 256
"""Bytes of a number modulo n in these tests."""
PROOF = 3 * WIDTH + ANSWER_BYTES
"""Bytes of the proof of plaintext knowledge that follows the ciphertexts."""


@pytest.fixture
def federation() -> Federation:
    return Federation("paillier", random_updates(3, 250))


def stock_private_key(federation: Federation) -> phe.PaillierPrivateKey:
    p, q = primes()
    return phe.PaillierPrivateKey(phe_key(key_of(federation.setting)), p, q)


# --- ordinary Paillier -----------------------------------------------------------------------------------------


def test_stock_phe_adds_and_decrypts_our_ciphertexts(federation: Federation) -> None:
    key, private = key_of(federation.setting), stock_private_key(federation)
    columns = [
        phe_numbers(key, ciphertexts_of(federation.setting, name, public))
        for name, public in federation.publics.items()
    ]
    plains = [private.decrypt(a + b + c) for a, b, c in zip(*columns, strict=True)]
    witness = federation.open().witness
    assert plains == [int(m) for m, _ in openings(federation.setting, witness)]


def test_we_open_what_stock_phe_encrypted(federation: Federation) -> None:
    public_key = phe_key(key_of(federation.setting))
    setting = replace(federation.setting, dimension=1)
    numbers = [public_key.raw_encrypt(value + 2**15) for value in (5, -7, 32767)]
    federation.setting = setting
    for (name, protected), number in zip(federation.protected.items(), numbers, strict=True):
        federation.protected[name] = replace(protected, public=number.to_bytes(2 * WIDTH, "big") + bytes(PROOF))
    for replica in range(4):
        federation.say(replica, federation.sums(replica))
    assert federation.open().values.tolist() == [5 - 7 + 32767]


def test_stock_phe_reencrypts_the_witness_to_the_sum(federation: Federation) -> None:
    public_key = phe_key(key_of(federation.setting))
    sums = summed(federation.setting, federation.publics)
    pairs = openings(federation.setting, federation.open().witness)
    assert len(pairs) == len(sums) == 3
    for c, (m, r) in zip(sums, pairs, strict=True):
        assert public_key.raw_encrypt(int(m), r_value=int(r)) == c


def test_equal_updates_encrypt_differently() -> None:
    federation = Federation("paillier", [np.zeros(3, dtype=np.int64)] * 2)
    first, second = federation.publics.values()
    assert first != second


@pytest.mark.parametrize(("cohort", "slots"), [(128, 88), (16, 102), (1, 127)])
def test_slots_are_those_of_the_design_at_2048_bits(cohort: int, slots: int) -> None:
    full = Federation("paillier", random_updates(1, slots), cohort=cohort)
    assert len(full.protected[node(0)].public) == 2 * WIDTH + PROOF
    more = Federation("paillier", random_updates(1, slots + 1), cohort=cohort)
    assert len(more.protected[node(0)].public) == 4 * WIDTH + PROOF


@pytest.mark.parametrize("bits", [8, 13, 16, 24])
@pytest.mark.parametrize("cohort", [1, 2, 3, 5])
def test_slots_full_of_extremes_do_not_spill(bits: int, cohort: int) -> None:
    limit = 2 ** (bits - 1) - 1
    rows = [np.tile(np.array([limit, -limit, limit, limit]), 40)] * cohort
    federation = Federation("paillier", rows, bits=bits, cohort=cohort)
    np.testing.assert_array_equal(federation.open().values, federation.total)


# --- what the replica refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["zero", "n squared", "above", "multiple of p", "multiple of n"])
def test_a_ciphertext_outside_the_group_is_refused_by_node(federation: Federation, which: str) -> None:
    n = int(key_of(federation.setting).n)
    value = {
        "zero": 0,
        "n squared": n * n,
        "above": n * n + 1,
        "multiple of p": primes()[0] * 12345,
        "multiple of n": n,
    }[which]
    public = bytearray(federation.publics[node(1)])
    public[2 * WIDTH : 4 * WIDTH] = value.to_bytes(2 * WIDTH, "big")
    with pytest.raises(BadPiece, match=f"node 0x{node(1).hex()} is outside the group"):
        PAILLIER.check(federation.setting, node(1), bytes(public), 0, b"")


def test_a_piece_is_refused_where_there_is_none(federation: Federation) -> None:
    held = federation.held(0)
    with pytest.raises(BadPiece, match=node(0).hex()):
        PAILLIER.combine(federation.for_replica(0), 0, [replace(held[0], piece=b"x"), *held[1:]])


# --- opening and verifying -------------------------------------------------------------------------------------


@pytest.mark.parametrize("three", list(combinations(range(4), 3)), ids=str)
def test_any_2f_plus_1_replicas_open(federation: Federation, three: tuple[int, ...]) -> None:
    federation.digests = {j: federation.digests[j] for j in three}
    np.testing.assert_array_equal(federation.open().values, federation.total)


def test_2f_replicas_do_not_open(federation: Federation) -> None:
    federation.digests = {j: federation.digests[j] for j in (1, 3)}
    with pytest.raises(CannotOpen, match=r"no 3 of the replicas \[1, 3\]"):
        federation.open()


def test_a_liar_among_exactly_2f_plus_1_stops_the_opening_and_nobody_is_named_wrongly(
    federation: Federation,
) -> None:
    del federation.digests[0]
    federation.lie(2)
    with pytest.raises(CannotOpen, match=r"\[1, 2, 3\]"):
        federation.open()


@pytest.mark.parametrize("data", [b"", b"\0" * 3 * WIDTH, b"\xff" * 3 * WIDTH, b"\1" * (3 * WIDTH - 1)])
def test_partials_that_are_no_group_elements_name_their_replica(federation: Federation, data: bytes) -> None:
    federation.say(1, {1: data})
    opened = federation.open()
    assert opened.dissenters == (1,)
    np.testing.assert_array_equal(opened.values, federation.total)


def test_a_replica_that_negates_its_partials_changes_nothing(federation: Federation) -> None:
    """-1 is the one root of unity that is publicly known; the opening squares it away."""
    n = int(key_of(federation.setting).n)
    data = federation.sums(0)[0]
    numbers = [n - int.from_bytes(data[i : i + WIDTH], "big") for i in range(0, len(data), WIDTH)]
    federation.say(0, {0: b"".join(number.to_bytes(WIDTH, "big") for number in numbers)})
    opened = federation.open()
    assert opened.dissenters == ()
    np.testing.assert_array_equal(opened.values, federation.total)


def test_two_liars_who_cancel_each_other_do_not_get_an_honest_replica_named() -> None:
    """With subset {0..4} of 7 the liars 0 and 1 multiply by e^(L_1) and e^(-L_0): the product is right."""
    from koinon.privacy.modular import lagrange_at_zero

    federation = Federation("paillier", random_updates(2, 5), replicas=7)
    n = key_of(federation.setting).n
    coefficients = lagrange_at_zero([1, 2, 3, 4, 5], 7)
    for liar, power in ((0, coefficients[2]), (1, -coefficients[1])):
        value = mpz.from_bytes(federation.sums(liar)[liar], "big") * gmpy2.powmod(3, power, n) % n
        federation.say(liar, {liar: bytes(value.to_bytes(WIDTH, "big"))})
    opened = federation.open()
    assert opened.dissenters == ()
    np.testing.assert_array_equal(opened.values, federation.total)
    del federation.digests[6]
    assert federation.open().dissenters == ()


def test_verification_needs_nothing_but_ciphertexts_and_witness(federation: Federation) -> None:
    witness = federation.open().witness
    got = PAILLIER.verify(federation.setting, Transcript(federation.publics), witness)
    np.testing.assert_array_equal(got, federation.total)


@pytest.mark.parametrize("position", [WIDTH - 1, 2 * WIDTH - 1, -1, -WIDTH - 1])
def test_a_changed_plaintext_or_root_is_refused(federation: Federation, position: int) -> None:
    witness = bytearray(federation.open().witness)
    witness[position] ^= 1
    with pytest.raises(CannotOpen, match="does not open the sum"):
        federation.verify(bytes(witness))


def test_two_swapped_openings_are_refused(federation: Federation) -> None:
    witness = federation.open().witness
    swapped = witness[2 * WIDTH : 4 * WIDTH] + witness[: 2 * WIDTH] + witness[4 * WIDTH :]
    with pytest.raises(CannotOpen, match="does not open the sum"):
        federation.verify(swapped)


def test_a_witness_of_another_set_is_refused(federation: Federation) -> None:
    witness = federation.open().witness
    fewer = dict(list(federation.publics.items())[:2])
    with pytest.raises(CannotOpen, match="does not open the sum"):
        PAILLIER.verify(federation.setting, Transcript(fewer), witness)


@pytest.mark.parametrize("root", [b"\0" * WIDTH, b"\xff" * WIDTH])
def test_randomness_outside_the_group_is_refused(federation: Federation, root: bytes) -> None:
    witness = federation.open().witness
    with pytest.raises(CannotOpen, match="outside the group"):
        federation.verify(witness[:WIDTH] + root + witness[2 * WIDTH :])


def test_a_node_that_overflows_the_slots_is_noticed(federation: Federation) -> None:
    n = int(key_of(federation.setting).n)
    c = int.from_bytes(federation.publics[node(0)][: 2 * WIDTH], "big") * (1 + (n // 2) * n) % (n * n)
    protected = federation.protected[node(0)]
    federation.protected[node(0)] = replace(
        protected, public=c.to_bytes(2 * WIDTH, "big") + protected.public[2 * WIDTH :]
    )
    for replica in range(4):
        federation.say(replica, federation.sums(replica))
    with pytest.raises(CannotOpen, match="overflows its slots"):
        federation.open()


# --- keys ------------------------------------------------------------------------------------------------------


def test_the_default_is_3072_bits_and_2048_warn() -> None:
    public_key = keys(4).public_key
    parse_key.cache_clear()
    with pytest.warns(UserWarning, match="2048 bits; 3072 are advised"):
        parse_key(public_key)
    assert BITS_DEFAULT == 3072


def test_a_3072_bit_key_opens_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    public_key, shares, _ = generate_key(3072, 4, seeded("large"))
    federation = Federation("paillier", random_updates(2, 8))
    setting = replace(federation.setting, public_key=public_key)
    federation.setting, federation.shares = setting, shares
    for name, values in zip(list(federation.protected), federation.updates, strict=True):
        federation.protected[name] = PAILLIER.protect(setting, name, values, seeded(name.hex()))
    for replica in range(4):
        federation.say(replica, federation.sums(replica))
    np.testing.assert_array_equal(federation.open().values, federation.total)
    assert not [w for w in recwarn if "3072 are advised" in str(w.message) and "2048" not in str(w.message)]


@pytest.mark.parametrize("bits", [512, 1024, 2032, 2049, 8208])
def test_other_key_sizes_are_errors(bits: int) -> None:
    with pytest.raises(ConfigError, match="2048 to 8192 bits"):
        generate_key(bits, 4, seeded("x"))
    key = PaillierKey(bits=bits, replicas=4, epoch=0, n=bytes(bits // 8), hs=bytes(bits // 4))
    with pytest.raises(ConfigError, match="2048 to 8192 bits"):
        parse_key(encode(key))


def test_a_committee_above_ten_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 10 replicas, not 13"):
        generate_key(2048, 13, seeded("x"))


def test_primes_are_as_djn_ask() -> None:
    p, q = primes()
    assert p % 4 == q % 4 == 3
    assert gmpy2.gcd(p - 1, q - 1) == 2
    assert (p * q).bit_length() == 2048
    assert gmpy2.is_prime(p)
    assert gmpy2.is_prime(q)


@pytest.mark.parametrize(
    "change",
    [
        {"n": bytes(WIDTH)},
        {"n": b"\xff" * (WIDTH - 1) + b"\xfe"},
        {"n": b"\xff" * (WIDTH + 1)},
        {"hs": bytes(2 * WIDTH)},
        {"hs": b"\xff" * 2 * WIDTH},
        {"hs": b"\1"},
        {"bits": 3072},
    ],
    ids=str,
)
def test_a_malformed_public_key_is_a_configuration_error(change: dict[str, object]) -> None:
    fields = decode(PaillierKey, keys(4)[0])
    values = {name: getattr(fields, name) for name in fields.__struct_fields__} | change
    with pytest.raises(ConfigError):
        parse_key(encode(PaillierKey(**values)))


def test_absent_torn_or_foreign_keys_and_shares_are_configuration_errors(federation: Federation) -> None:
    public_key, shares, _ = keys(4)

    def setting(**change: object) -> Setting:
        return replace(federation.for_replica(0), **change)  # type: ignore[arg-type]

    for wrong, message in (
        (setting(public_key=b""), "has none"),
        (setting(public_key=public_key[:-1]), "not a Paillier public key"),
        (setting(public_key=b"\0"), "not a Paillier public key"),
        (setting(replicas=7), "shared among 4"),
        (setting(key_share=b""), "no share"),
        (setting(key_share=shares[0][:-1]), "not a Paillier key share"),
        (setting(key_share=shares[1]), "another replica"),
        (setting(key_share=public_key), "not a Paillier key share"),
        (setting(key_share=generate_key(2048, 4, seeded("other"))[1][0]), "another key"),
    ):
        with pytest.raises(ConfigError, match=message):
            PAILLIER.combine(wrong, 0, federation.held(0))


def test_a_share_does_not_show_itself() -> None:
    share = decode(PaillierShare, keys(4)[1][0])
    assert share.share.hex() not in repr(share)
    assert repr(share.share) not in repr(share)
    assert share.key == keccak(keys(4)[0])


def test_shares_differ_from_dealing_to_dealing_under_one_key() -> None:
    """2f shares say nothing of the exponent: it is the polynomial that is random."""
    from koinon.privacy.paillier_key import deal

    p, q = primes()
    first = deal(mpz(p), mpz(q), 4, seeded("a"))[1]
    second = deal(mpz(p), mpz(q), 4, seeded("b"))[1]
    assert not set(first) & set(second)
    for encoded in first:
        value = mpz.from_bytes(decode(PaillierShare, encoded).share, "big")
        assert value.bit_length() > 2048 + 128


def test_the_other_modes_load_neither_phe_nor_gmpy2() -> None:
    code = (
        "import sys; from koinon.privacy import mode; mode('shares'); mode('plain'); "
        "print(sorted({'phe', 'gmpy2'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- randomness ahead of time ------------------------------------------------------------------------------------


def test_prepared_randomness_is_used_once_and_encrypts_as_ever(federation: Federation) -> None:
    setting = federation.setting
    source = masks_of(key_of(setting))
    prepare(setting, seeded("pool"))
    assert source.waiting == 3
    first = PAILLIER.protect(setting, node(0), federation.updates[0], seeded("one"))
    assert source.waiting == 0
    second = PAILLIER.protect(setting, node(0), federation.updates[0], seeded("two"))
    assert not set(ciphertexts_of(setting, node(0), first.public)) & set(
        ciphertexts_of(setting, node(0), second.public)
    )
    for protected in (first, second):
        PAILLIER.check(setting, node(0), protected.public, 0, b"")
    federation.protected[node(0)] = first
    for replica in range(4):
        federation.say(replica, federation.sums(replica))
    np.testing.assert_array_equal(federation.open().values, federation.total)


def test_a_full_pool_is_left_alone(federation: Federation) -> None:
    prepare(federation.setting, seeded("pool"))
    prepare(federation.setting, lambda count: pytest.fail("drew more than it needs"))
    source = masks_of(key_of(federation.setting))
    while source.waiting:
        source.take(seeded("drain"))
