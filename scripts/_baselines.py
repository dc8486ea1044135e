"""What others offer, on the vectors of scripts/bench_privacy.py: naive phe, TenSEAL's CKKS, Flower's SecAgg+.

Run by bench_privacy with a Python that has phe, tenseal and flwr (`make bench-privacy`); it imports nothing of Koinon,
and them by name, since they are no dependencies of ours. One JSON object a line.

`phe`     one ciphertext a parameter, as its documentation shows; timed on PHE_SAMPLE parameters and scaled up
`tenseal` CKKS, 8192 slots of polynomial degree 16384 at 128 bits; the aggregator adds, the holder of the key decrypts
`flower`  SecAgg+ by Flower's own client functions, complete graph, threshold 2/3; the server's steps with its helpers
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS, CLIENTS, CLIPS = 16, 10, 64
LENET, MIDDLE = 62_006, 1_126_410
LIMIT = 2 ** (BITS - 1) - 1
PHE_SAMPLE = 64
Vector = NDArray[Any]


def vectors(params: int) -> list[Vector]:
    """As in scripts/bench_privacy.py; a test compares them."""
    rng = np.random.default_rng(params)
    spread = min(LIMIT / 4, CLIPS * LIMIT / np.sqrt(params) / 2)
    return [np.clip(np.rint(rng.normal(0, spread, params)), -LIMIT, LIMIT).astype(np.int64) for _ in range(CLIENTS)]


def emit(name: str, params: int, client: float, server: float | None, opening: float, size: int) -> None:
    row: dict[str, Any] = {"name": name, "params": params, "n": 0, "clients": CLIENTS}
    row |= {"client_s": round(client, 6), "replica_s": None if server is None else round(server, 6)}
    sys.stdout.write(json.dumps(row | {"open_s": round(opening, 6), "verify_s": None, "bytes_up": size}) + "\n")
    sys.stdout.flush()


def phe(bits: int, params: int) -> None:
    paillier = importlib.import_module("phe.paillier")
    public, private = paillier.generate_paillier_keypair(n_length=bits)
    sample = [int(value) for value in vectors(params)[0][:PHE_SAMPLE]]
    start = time.perf_counter()
    encrypted = [public.encrypt(value) for value in sample]
    client = (time.perf_counter() - start) * params / PHE_SAMPLE
    start = time.perf_counter()
    total = encrypted
    for _ in range(3):
        total = [a + b for a, b in zip(total, encrypted, strict=True)]
    server = (time.perf_counter() - start) * params / PHE_SAMPLE / 3
    start = time.perf_counter()
    opened = [private.decrypt(value) for value in total]
    opening = (time.perf_counter() - start) * params / PHE_SAMPLE
    if opened != [4 * value for value in sample]:
        raise SystemExit("phe opened another sum than the true one")
    emit(f"phe naive {bits}", params, client, server, opening, params * bits // 4)


def tenseal(params: int) -> None:
    ts = importlib.import_module("tenseal")
    context = ts.context(ts.SCHEME_TYPE.CKKS, poly_modulus_degree=16384, coeff_mod_bit_sizes=[60, 40, 40, 60])
    context.global_scale = 2**40
    slots = 8192
    updates = vectors(params)

    def encrypt(values: Vector) -> list[bytes]:
        chunks = (values[start : start + slots].tolist() for start in range(0, params, slots))
        return [ts.ckks_vector(context, chunk).serialize() for chunk in chunks]

    start = time.perf_counter()
    first = encrypt(updates[0])
    client = time.perf_counter() - start
    uploads = [first, *(encrypt(values) for values in updates[1:])]
    start = time.perf_counter()
    total = [ts.ckks_vector_from(context, each) for each in uploads[0]]
    for upload in uploads[1:]:
        for kept, each in zip(total, upload, strict=True):
            kept += ts.ckks_vector_from(context, each)
    server = (time.perf_counter() - start) / CLIENTS
    start = time.perf_counter()
    opened = np.concatenate([each.decrypt() for each in total])
    opening = time.perf_counter() - start
    if not np.allclose(opened, np.sum(updates, axis=0), atol=1.0):
        raise SystemExit("tenseal opened another sum than the true one")
    emit("tenseal CKKS", params, client, server, opening, sum(map(len, first)))


def flower(params: int) -> None:
    common, base = importlib.import_module("flwr.common"), "flwr.common.secure_aggregation"
    arithmetic = importlib.import_module(f"{base}.ndarrays_arithmetic")
    combine_shares = importlib.import_module(f"{base}.crypto.shamir").combine_shares
    Key = importlib.import_module(f"{base}.secaggplus_constants").Key
    pseudo_rand_gen = importlib.import_module(f"{base}.secaggplus_utils").pseudo_rand_gen
    client_side = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    updates, nodes = vectors(params), list(range(1, CLIENTS + 1))
    threshold = 2 * CLIENTS // 3 + 1
    modulus, quantization = 1 << 32, 1 << 22  # Flower's defaults
    setup = {
        Key.SAMPLE_NUMBER: CLIENTS,
        Key.SHARE_NUMBER: CLIENTS,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: float(LIMIT),
        Key.TARGET_RANGE: quantization,
        Key.MOD_RANGE: modulus,
        Key.MAX_WEIGHT: 1000.0,
    }
    spent = dict.fromkeys(nodes, 0.0)
    states: dict[int, Any] = {}
    keys: dict[str, Any] = {}
    masked: dict[int, Any] = {}
    boxes: dict[int, list[Any]] = {node: [] for node in nodes}
    shares: dict[int, list[bytes]] = {node: [] for node in nodes}
    size = 0

    def timed(node: int, call: Any) -> Any:
        start = time.perf_counter()
        result = call()
        spent[node] += time.perf_counter() - start
        return result

    for node in nodes:
        state = client_side.SecAggPlusState()
        state.nid, states[node] = node, state
        said = timed(node, lambda state=state: client_side._setup(state, dict(setup)))
        keys[str(node)] = (said[Key.PUBLIC_KEY_1], said[Key.PUBLIC_KEY_2])
    for node in nodes:
        said = timed(node, lambda node=node: client_side._share_keys(states[node], dict(keys)))
        for target, box in zip(said[Key.DESTINATION_LIST], said[Key.CIPHERTEXT_LIST], strict=True):
            boxes[target].append((node, box))
            size += len(box) if node == 1 else 0
    for node, values in zip(nodes, updates, strict=True):
        parameters = common.ndarrays_to_parameters([values.astype(np.float32)])
        configs = {
            Key.CIPHERTEXT_LIST: [box for _, box in boxes[node]],
            Key.SOURCE_LIST: [source for source, _ in boxes[node]],
        }
        masked[node] = timed(
            node,
            lambda node=node, configs=configs, parameters=parameters: client_side._collect_masked_vectors(
                states[node], configs, 1000, parameters
            ),
        )[Key.MASKED_PARAMETERS]
    size += sum(map(len, masked[1]))
    start = time.perf_counter()
    total: Any = None
    for node in nodes:
        arrays = [common.bytes_to_ndarray(each) for each in masked[node]]
        total = arrays if total is None else arithmetic.parameters_addition(total, arrays)
    total = arithmetic.parameters_mod(total, modulus)
    server = (time.perf_counter() - start) / CLIENTS
    for node in nodes:
        configs = {Key.ACTIVE_NODE_ID_LIST: nodes, Key.DEAD_NODE_ID_LIST: []}
        said = timed(node, lambda node=node, configs=configs: client_side._unmask(states[node], configs))
        for owner, share in zip(said[Key.NODE_ID_LIST], said[Key.SHARE_LIST], strict=True):
            shares[owner].append(share)
    start = time.perf_counter()
    shapes = arithmetic.get_parameters_shape(total)
    for node in nodes:
        mask = pseudo_rand_gen(combine_shares(shares[node]), modulus, shapes)
        total = arithmetic.parameters_subtraction(total, mask)
    total = arithmetic.parameters_mod(total, modulus)
    weight, vector = arithmetic.factor_extract(total)
    opening = time.perf_counter() - start
    require_flower(vector[0].astype(np.float64) / weight, updates)
    emit("flower SecAgg+", params, max(spent.values()), server, opening, size)


def require_flower(mean: Vector, updates: list[Vector]) -> None:
    """The opened vector must be an affine image of the true mean (Flower shifts and scales it afterwards)."""
    truth = np.mean(updates, axis=0)
    if np.corrcoef(mean, truth)[0, 1] < 0.99:
        raise SystemExit("SecAgg+ opened another sum than the true one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="62,006 parameters only")
    quick = parser.parse_args().quick
    for params in (LENET,) if quick else (LENET, MIDDLE):
        flower(params)
        tenseal(params)
    for bits in (2048, 3072):
        phe(bits, LENET)


if __name__ == "__main__":
    main()
