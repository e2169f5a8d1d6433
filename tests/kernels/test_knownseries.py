"""The quick pass over bodies of known series against a slow reader, on whole and damaged bodies."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import knownseries as reference
from tests.reference import remote_write as wire
from tsengine.kernels.catalog import memo_insert
from tsengine.kernels.hashing import KEY_WORDS, POINT_1, POINT_2, PRIME, hash_spans
from tsengine.kernels.jit import ERR_CAPACITY, ERR_CORRUPT
from tsengine.kernels.knownseries import scan_known_v1

KEY = np.random.default_rng(5).integers(0, 2**64, KEY_WORDS, np.uint64)
KEY[[POINT_1, POINT_2]] %= PRIME
N_SERIES = 40
LABELS = [
    [(b"__name__", b"m" * (1 + i % 3)), (b"i", b"%d" % i), (b"long", b"x" * (i * 7 % 150))]
    for i in range(N_SERIES)
]
BLOCKS = [b"".join(wire.label_v1(*label) for label in labels) for labels in LABELS]


class Known:
    """A memo of some series, and its trail."""

    def __init__(self, refs: dict[int, int], n_trail: int = N_SERIES) -> None:
        self.by_block = {BLOCKS[i]: ref for i, ref in refs.items()}
        self.keys, self.refs = np.zeros(256, np.uint64), np.zeros(128, np.uint32)
        self.trail_keys, self.trail_sizes = (
            np.zeros(n_trail, np.uint64),
            np.zeros(n_trail, np.uint32),
        )
        for block, ref in self.by_block.items():
            data, hashes = np.frombuffer(block, np.uint8), np.empty(2, np.uint64)
            ends = np.array([len(block)])
            hash_spans(data, np.zeros(1, np.int64), ends, 1, KEY, hashes)
            memo_insert(hashes, np.array([ref], np.uint32), 1, self.keys, self.refs)

    def scan(self, body: bytes, capacity: int = 500):
        refs, t_ms = np.empty(capacity, np.uint32), np.empty(capacity, np.int64)
        bits = np.empty(capacity, np.uint64)
        n = scan_known_v1(
            np.frombuffer(body, np.uint8), KEY, self.keys, self.refs, self.trail_keys,
            self.trail_sizes, refs, t_ms, bits,
        )  # fmt: skip
        if n < 0:
            return n
        return list(zip(refs[:n].tolist(), t_ms[:n].tolist(), bits[:n].tolist(), strict=True))


times = (
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(1_600_000_000_000, 1_800_000_000_000)
    | st.sampled_from([2**35 - 1, 2**35, 2**42 - 1, 2**42])
)
bits = st.integers(0, 2**64 - 1) | st.sampled_from([0x7FFC000000000000, 0x7FFCFFFFFFFFFFFF])
samples = st.lists(st.tuples(times, bits), min_size=1, max_size=3)


@st.composite
def bodies(draw):
    """Runs of series in order, with jumps; now and then with something that is not plain."""
    rows = []
    i = draw(st.integers(0, N_SERIES - 1))
    for _ in range(draw(st.integers(1, N_SERIES))):
        jumps = draw(st.integers(0, 9)) == 0
        i = draw(st.integers(0, N_SERIES - 1)) if jumps else (i + 1) % N_SERIES
        rows.append(wire.Series(LABELS[i], draw(samples)))
    odd = draw(st.sampled_from(["", "", "", "histogram", "exemplar", "empty", "labels"]))
    row = rows[draw(st.integers(0, len(rows) - 1))]
    if odd == "histogram":
        row.n_histograms = 1
    elif odd == "exemplar":
        row.n_exemplars = 1
    elif odd == "empty":
        row.samples = []
    elif odd == "labels":
        row.labels = row.labels[:-1]
    return wire.encode_v1(rows)


def check(known: Known, body: bytes) -> None:
    expected = reference.scan_known_v1(body, known.by_block)
    found = known.scan(body)
    if expected is None:
        assert found == ERR_CORRUPT
    elif found == ERR_CORRUPT:
        # Only a body that keeps to no order may be left to the general way.
        refs = [row[0] for row in expected]
        jumps = sum(b != a + 1 for a, b in zip(refs, refs[1:], strict=False))
        assert jumps >= 8
    else:
        assert found == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(bodies(), min_size=1, max_size=4),
    st.integers(0, N_SERIES),
    st.sets(st.integers(0, N_SERIES - 1), max_size=2),
)
def test_bodies_match_the_reference(sent, n_trail, unknown):
    known = Known({i: i for i in range(N_SERIES) if i not in unknown}, n_trail)
    for body in sent + sent:
        check(known, body)


@settings(max_examples=60, deadline=None)
@given(bodies(), st.data())
def test_damaged_bodies_match_the_reference(body, data):
    known = Known({i: i for i in range(N_SERIES)})
    check(known, body)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    check(known, bytes(damaged))
    check(known, bytes(damaged[: data.draw(st.integers(1, len(damaged)))]))


def test_labels_that_go_on_behind_known_ones_are_another_series():
    """The bytes of a known series at the start of a row prove nothing about the rest of it."""
    known = Known({0: 0, 1: 1})
    plain = [wire.Series(LABELS[0], [(5, 6)]), wire.Series(LABELS[1], [(7, 8)])]
    assert known.scan(wire.encode_v1(plain)) == [(0, 5, 6), (1, 7, 8)]
    longer = wire.Series([*LABELS[1], (b"z", b"z")], [(7, 8)])
    assert known.scan(wire.encode_v1([plain[0], longer])) == ERR_CORRUPT
    behind = wire.length_field(1, BLOCKS[1] + wire.length_field(2, wire.sample(7, 8)) + BLOCKS[0])
    assert known.scan(wire.encode_v1(plain[:1]) + behind) == ERR_CORRUPT


def test_it_says_when_there_is_no_room():
    known = Known({0: 0})
    body = wire.encode_v1([wire.Series(LABELS[0], [(t, t) for t in range(5)])])
    assert known.scan(body, 4) == ERR_CAPACITY
    assert known.scan(body, 5) == [(0, t, t) for t in range(5)]


def test_another_order_is_given_up_and_another_form_is_learnt():
    known = Known({i: i for i in range(N_SERIES)})
    order = [wire.Series(labels, [(1, 2)]) for labels in LABELS]
    assert known.scan(wire.encode_v1(order[::-1])) == ERR_CORRUPT
    assert len(known.scan(wire.encode_v1(order))) == N_SERIES
    known.trail_keys[:] = 1
    assert len(known.scan(wire.encode_v1(order))) == N_SERIES
    assert not (known.trail_keys == 1).any()
