"""Histograms and start timestamps in parts: what is written is read, whatever overlays what."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import make_part_v2
from tests.reference import rich_samples, samples
from tests.reference.rich_samples import Histogram, Rich, bits
from tests.reference.samples import STALE
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.batch import SeriesColumns
from tsengine.storage import component_format, component_writer, part_format, part_writer, select
from tsengine.storage.checkpoint import chunks_of_head
from tsengine.storage.compaction import merge_parts
from tsengine.storage.filesystem import remove_tree
from tsengine.storage.head import Head
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.view import DatabaseView

DAY = 86_400_000
ALL = (-(2**63), 2**63 - 1)
FS = UnsyncedFileSystem()
GOLDEN = Path(__file__).parent.parent / "golden"
COMPONENT_FILES = (*part_format.FILES, part_format.TABLE_FILE)


def write(folder: Path, model: Rich, number: int = 1, n_chunks: int = 1) -> PartEntry:
    chunks = [
        rich_samples.columns_of({ref: model[ref] for ref in refs})
        for refs in np.array_split(sorted(model), n_chunks)
        if len(refs)
    ]
    entry = write_part(
        FS, str(folder), f"{number:010d}", chunks,
        targets=lambda refs: refs.astype(np.int64) // 3 - 1,
        seq_min=number, seq_max=number, level=0,
    )  # fmt: skip
    assert entry is not None
    return entry


@contextmanager
def written(folder: Path, model: Rich, **how: int) -> Iterator[PartReader]:
    entry = write(folder, model, **how)
    reader = PartReader.open(FS, str(folder / entry.name), entry)
    try:
        yield reader
    finally:
        reader.close()


def read(sources, *, refs=None, span=ALL) -> Rich:
    parts = [s for s in sources if isinstance(s, PartReader)]
    heads = [s for s in sources if not isinstance(s, PartReader)]
    refs = np.arange(10, dtype=np.uint32) if refs is None else refs
    return rich_samples.model_of(select.read_columns(parts, heads, refs, *span, with_start=True))


def clipped(model: Rich, mint: int, maxt: int) -> Rich:
    found = {ref: {t: s for t, s in own.items() if mint <= t <= maxt} for ref, own in model.items()}
    return {ref: own for ref, own in found.items() if own}


def merged(models: list[Rich]) -> Rich:
    whole: Rich = {}
    for model in models:
        for ref, own in model.items():
            whole.setdefault(ref, {}).update(own)
    return whole


SPANS = st.sampled_from([ALL, (0, 20), (7, 7), (15, 60)])
TIMES = st.integers(0, 40) | st.integers(DAY - 3, DAY + 3)


@settings(max_examples=60, deadline=None)
@given(rich_samples.models(times=TIMES), SPANS, st.integers(1, 3), st.sampled_from([1, 5, 2**20]))
def test_what_is_written_is_read(tmp_path_factory, model, span, n_chunks, values):
    folder = tmp_path_factory.mktemp("part")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(component_writer, "CHUNK_VALUES", values)
        entry = write(folder, model, n_chunks=n_chunks)
    files = [path for path in (folder / entry.name).rglob("*") if path.is_file()]
    assert entry.size_bytes == sum(path.stat().st_size for path in files)
    reader = PartReader.open(FS, str(folder / entry.name), entry)
    assert read([reader], span=span) == clipped(model, *span)
    collected = reader.collect(None, *ALL)
    assert rich_samples.model_of(collected) == rich_samples.without_starts(model)
    values_of = {ref: {t: v for t, (v, _) in own.items()} for ref, own in model.items()}
    frames = select.read_frames([reader], [], reader.refs, *ALL, drop_stale=False)
    assert rich_samples.values_of_frames(frames) == [values_of[ref] for ref in sorted(model)]
    reader.verify()
    reader.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(rich_samples.models(), max_size=3),
    st.lists(st.lists(rich_samples.models(), min_size=1, max_size=2), max_size=2),
    SPANS,
    st.booleans(),
)
def test_later_sources_win_across_kinds(tmp_path_factory, parts, heads, span, drop_stale):
    folder = tmp_path_factory.mktemp("parts")
    readers = []
    for number, model in enumerate(parts):
        entry = write(folder, model, number)
        readers.append(PartReader.open(FS, str(folder / entry.name), entry))
    views = []
    for batches in heads:
        head = Head()
        for seq, model in enumerate(batches):
            rows = [(ref, t, s) for ref, own in model.items() for t, s in own.items()]
            head.append(rich_samples.batch_of(rows), seq)
        views.append(head.view())
    expected = clipped(merged([*parts, *(m for batches in heads for m in batches)]), *span)
    refs = np.arange(10, dtype=np.uint32)
    assert read([*readers, *views], span=span) == expected
    plain = select.read_columns(readers, views, refs, *span)
    assert rich_samples.model_of(plain) == rich_samples.without_starts(expected)

    frames = select.read_frames(readers, views, refs, *span, drop_stale=drop_stale)
    assert rich_samples.values_of_frames(frames) == [
        {
            t: value
            for t, (value, _) in sorted(expected.get(ref, {}).items())
            if not (drop_stale and value == STALE)
        }
        for ref in range(10)
    ]
    view = DatabaseView(None, readers, views, None)
    for ref in range(10):
        own = np.array([ref], np.uint32)
        now = [v for v, _ in expected.get(ref, {}).values() if isinstance(v, Histogram)]
        ever = [
            v
            for model in [*parts, *(m for batches in heads for m in batches)]
            for v, _ in model.get(ref, {}).values()
            if isinstance(v, Histogram)
        ]
        assert bool(now) <= view.has_histograms(own, *span) <= bool(ever)

    starts = select.read_start_times(readers, views, refs, *span)
    assert starts.histograms is starts.start_ms is None
    found = samples.model_of(
        SeriesColumns(starts.refs, starts.offsets, starts.t_ms, starts.bits.view(np.int64))
    )
    assert found == rich_samples.starts_of(expected)
    for reader in readers:
        reader.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(rich_samples.models(times=TIMES), min_size=1, max_size=3),
    rich_samples.models(times=TIMES),
    st.sampled_from([None, 20]),
)
def test_merging_and_flushing_keep_every_bit(tmp_path_factory, parts, newest, cut):
    folder = tmp_path_factory.mktemp("parts")
    head = Head()
    rows = [(ref, t, s) for ref, own in newest.items() for t, s in own.items()]
    head.append(rich_samples.batch_of(rows), 9)
    entries = [write(folder, model, number) for number, model in enumerate(parts)]
    flushed = write_part(
        FS, str(folder), "0000000009", chunks_of_head(head.view()),
        targets=lambda refs: np.full(len(refs), -1), seq_min=9, seq_max=9, level=0,
    )  # fmt: skip
    assert flushed is not None
    readers = [PartReader.open(FS, str(folder / e.name), e) for e in [*entries, flushed]]
    names = iter(range(100, 200))
    outputs = merge_parts(
        FS, readers, str(folder), lambda: f"{next(names):010d}",
        targets=lambda refs: np.full(len(refs), -1), cut_before_ms=cut, level=1,
    )  # fmt: skip
    expected = clipped(merged([*parts, newest]), ALL[0] if cut is None else cut, ALL[1])
    merged_readers = [PartReader.open(FS, str(folder / e.name), e) for e in outputs]
    assert read(merged_readers) == expected
    span = (ALL[0] if cut is None else cut, ALL[1])
    assert read(readers, span=span) == expected
    for reader in [*readers, *merged_readers]:
        reader.close()


def one(schema=3, **changes) -> Histogram:
    base = Histogram(
        schema, 0, bits(10.0), bits(12.5), bits(0.001), 0,
        ((2**20 + 1, bits(4.0)), (2**20 + 2, bits(6.0))), None,
    )  # fmt: skip
    return base._replace(**changes)


def scrape(n_steps: int = 60) -> Rich:
    """Two histogram series, one with a float and a marker in between, and two of floats."""
    rng = np.random.default_rng(5)
    model: Rich = {0: {}, 1: {}, 4: {}, 5: {}}
    counts = np.cumsum(rng.integers(0, 9, (n_steps, 8)), axis=0)
    for k in range(n_steps):
        t = 15_000 * (k + 1)
        for ref in (0, 1):
            own = counts[max(0, k - 7 * ref)]
            buckets = tuple((2**20 + i, bits(float(n))) for i, n in enumerate(own) if n)
            model[ref][t] = (
                one(count=bits(float(own.sum())), sum=bits(own.sum() / 3), buckets=buckets),
                17,
            )
        model[4][t] = (bits(float(k)), 0)
        model[5][t] = (bits(float(k * k)), 3 if k < 20 else 4)
    model[1][15_000 * 30] = (STALE, 0)
    model[1][15_000 * 31] = (bits(2.0), 17)
    return model


def test_the_samples_say_which_blocks_hold_histograms(tmp_path):
    with written(tmp_path, scrape()) as reader:
        assert reader.index.block_flags.tolist() == [2, 3, 0, 0]
        assert (reader.stats.flags[reader.index.block_payload[:2]] & 2).all()  # HAS_NAN
        sizes = np.diff(reader.index.payload_offsets)[reader.index.block_payload]
        assert sizes[0] < 20
        assert reader.has_histograms(np.array([1], np.uint32), 15_000, 15_000)
        assert not reader.has_histograms(np.array([4, 5], np.uint32), *ALL)
        assert not reader.has_histograms(np.array([0], np.uint32), -5, -1)


def test_components_lie_on_the_axis_of_their_samples(tmp_path):
    with written(tmp_path, scrape()) as reader:
        assert reader.components is not None
        blocks = reader.components._blocks
        # That of all samples, and one less: the series with a marker and a float.
        assert len(blocks.index.axis_rows) <= 2


def test_counting_weighs_histograms_by_their_numbers(tmp_path):
    model = scrape()
    with written(tmp_path, model) as reader:
        floats, both = np.array([4, 5], np.uint32), np.array([0, 4], np.uint32)
        assert reader.count_samples(floats, *ALL) == 120
        assert 60 * 10 < reader.count_samples(both, *ALL) <= 60 * 12 + 60
        refs, counts = reader.series_samples(*ALL)
        assert refs.tolist() == [0, 1, 4, 5]
        assert counts[2] == 60
        assert counts[3] == 120
        assert counts[0] > 600


def test_counting_in_a_head_weighs_histograms_too():
    model = scrape()
    rows = [(ref, t, s) for ref, own in model.items() for t, s in own.items()]
    head = Head()
    head.append(rich_samples.batch_of(rows), 1)
    for _ in range(2):
        view = head.view()
        assert view.count_samples(np.array([4, 5], np.uint32), *ALL) == 120
        assert 60 * 5 < view.count_samples(np.array([0, 4], np.uint32), *ALL) <= 60 * 30
        assert view.has_histograms_of(np.array([1, 4], np.uint32), *ALL)
        assert not view.has_histograms_of(np.array([4, 5], np.uint32), *ALL)
        head.freeze()


def test_a_part_without_components_is_as_it_was(tmp_path):
    plain = {1: {5: bits(1.0)}, 2: {5: STALE, 9: 0x7FF8000000000007}}
    columns = samples.columns_of(plain)
    entries = []
    for name, chunk in (
        ("0000000001", columns),
        ("0000000002", SeriesColumns(
            columns.refs, columns.offsets, columns.t_ms, columns.bits,
            rich_samples.table_of([]), np.array([0, 0, 2**53]),
        )),
    ):  # fmt: skip
        entries.append(
            write_part(
                FS, str(tmp_path), name, [chunk], targets=lambda refs: refs.astype(np.int64),
                seq_min=1, seq_max=1, level=0,
            )
        )  # fmt: skip
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == sorted(part_format.FILES)
    first, second = (tmp_path / entry.name for entry in entries)
    for file in part_format.FILES:
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert (first / "index").read_bytes()[8] == 1


def test_no_float_is_written_with_the_bits_of_a_handle(tmp_path):
    with written(tmp_path, {1: {5: (0x7FFC000000000007, 0), 6: (bits(1.0), 1)}}) as reader:
        assert read([reader]) == {1: {5: (0x7FF8000000000007, 0), 6: (bits(1.0), 1)}}


def test_a_float_of_an_old_part_is_not_taken_for_a_histogram(tmp_path, monkeypatch):
    odd = 0x7FFC000000000007
    monkeypatch.setattr(part_writer, "without_handles", lambda bits: bits)
    old = write(tmp_path, {1: {5: (odd, 0)}}, 1)
    monkeypatch.undo()
    new = write(tmp_path, {1: {6: (one(), 0)}, 2: {5: (bits(1.0), 0)}}, 2)
    readers = [PartReader.open(FS, str(tmp_path / e.name), e) for e in (old, new)]
    alone = select.read_columns(readers[:1], [], readers[0].refs, *ALL)
    assert alone.bits.tolist() == [odd], "reads without histograms change nothing"
    assert read(readers)[1] == {5: (0x7FF8000000000007, 0), 6: (one(), 0)}
    for reader in readers:
        reader.close()


def test_older_versions_refuse_the_part_by_name(tmp_path, monkeypatch):
    entry = write(tmp_path, scrape())
    assert (tmp_path / entry.name / "index").read_bytes()[8] == 2
    monkeypatch.setattr(part_format, "COMPONENTS_VERSION", 1)
    with pytest.raises(UnsupportedFormat, match="index: version 2 is newer than 1"):
        PartReader.open(FS, str(tmp_path / entry.name), entry)


def test_a_newer_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(component_format, "VERSION", 2)
    entry = write(tmp_path, scrape())
    monkeypatch.undo()
    with pytest.raises(UnsupportedFormat, match="table: version 2"):
        PartReader.open(FS, str(tmp_path / entry.name), entry)


def test_the_folder_is_removed_with_the_part(tmp_path):
    entry = write(tmp_path, scrape())
    assert (tmp_path / entry.name / "components" / "table").exists()
    remove_tree(FS, str(tmp_path / entry.name))
    assert list(tmp_path.iterdir()) == []


def test_components_are_durable_before_the_index_that_names_them(tmp_path):
    calls: list[str] = []

    class Recording(UnsyncedFileSystem):
        def open_append(self, path: str):
            file = super().open_append(path)

            def datasync() -> None:
                calls.append(f"datasync {Path(path).relative_to(tmp_path / 'p')}")

            file.datasync = datasync  # type: ignore[method-assign]
            return file

        def write_file(self, path: str, data: bytes) -> None:
            calls.append(f"write_file {Path(path).relative_to(tmp_path / 'p')}")
            super().write_file(path, data)

        def sync_dir(self, path: str) -> None:
            calls.append(f"sync_dir {Path(path).relative_to(tmp_path)}")

    write_part(
        Recording(), str(tmp_path), "p", [rich_samples.columns_of({1: {1: (one(), 1)}})],
        targets=lambda refs: refs.astype(np.int64), seq_min=0, seq_max=0, level=0,
    )  # fmt: skip
    assert calls == [
        "datasync axes", "datasync values",
        "datasync components/axes", "datasync components/values",
        "write_file components/index", "write_file components/table", "sync_dir p/components",
        "write_file index", "sync_dir p", "sync_dir .",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, PartEntry]:
    folder = tmp_path_factory.mktemp("sound")
    return folder, write(folder, scrape())


def read_everything(folder: Path, entry: PartEntry) -> Rich:
    reader = PartReader.open(FS, str(folder / entry.name), entry)
    try:
        return read([reader])
    finally:
        reader.close()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_an_error_with_the_file(sound, tmp_path_factory, data):
    folder, entry = sound
    damaged = tmp_path_factory.mktemp("damaged")
    shutil.copytree(folder / entry.name, damaged / entry.name)
    name = data.draw(st.sampled_from(COMPONENT_FILES))
    file = damaged / entry.name / "components" / name
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises((CorruptionError, UnsupportedFormat)) as caught:
        read_everything(damaged, entry)
    assert f"components/{name}" in str(caught.value)


@pytest.mark.parametrize("name", COMPONENT_FILES)
def test_a_file_of_another_length_or_missing_is_an_error(sound, tmp_path, name):
    folder, entry = sound
    content = (folder / entry.name / "components" / name).read_bytes()
    for k, changed in enumerate((b"", content[:-1], content + b"\0")):
        damaged = tmp_path / str(k)
        shutil.copytree(folder / entry.name, damaged / entry.name)
        (damaged / entry.name / "components" / name).write_bytes(changed)
        with pytest.raises(CorruptionError, match=f"components/{name}"):
            PartReader.open(FS, str(damaged / entry.name), entry)
    (damaged / entry.name / "components" / name).unlink()
    with pytest.raises(FileNotFoundError):
        PartReader.open(FS, str(damaged / entry.name), entry)


def test_a_table_whose_checksums_hold_is_still_not_believed(sound, tmp_path):
    """What is made up either breaks a rule, or changes nothing but values."""
    folder, entry = sound
    table = component_format.decode_table(
        (folder / entry.name / "components" / "table").read_bytes(), "table"
    )
    rng = np.random.default_rng(3)
    columns = {
        "refs": (table.refs, [0, 1, 2, 5, 2**32 - 1]),
        "layouts": (table.layouts, [0, 1, 2, -1, 2**40]),
        "keys": (table.keys, [0, 1, 5, 2**21, -(2**22), -(2**22) + 1, -(2**22) + 4, -(2**22) - 1]),
    }
    n_refused = 0
    for _ in range(300):
        name = str(rng.choice(list(columns)))
        column, choices = columns[name]
        changed = column.copy()
        changed[rng.integers(len(changed))] = np.int64(rng.choice(choices)).astype(column.dtype)
        data = component_format.encode_table(dataclasses.replace(table, **{name: changed}))
        try:
            found = component_format.decode_table(data, "table")
        except CorruptionError:
            n_refused += 1
            continue
        with written_with(found, folder / entry.name, tmp_path, entry) as reader:
            try:
                read([reader])
            except CorruptionError:
                n_refused += 1
    assert n_refused > 200


@contextmanager
def written_with(table, source: Path, folder: Path, entry: PartEntry) -> Iterator[PartReader]:
    """The part with another table, which its components take for their own."""
    reader = PartReader.open(FS, str(source), entry)
    assert reader.components is not None
    components = type(reader.components)(str(folder), reader.components._blocks, table)
    reader.components = components
    try:
        yield reader
    finally:
        reader.close()


def test_the_golden_part_is_read_and_written_alike(tmp_path):
    """Written once by the first version with components; every later version must read it."""
    golden = GOLDEN / make_part_v2.NAME
    reader = PartReader.open(FS, str(golden), make_part_v2.golden_entry())
    assert read([reader]) == make_part_v2.golden_model()
    reader.verify()
    reader.close()
    make_part_v2.main(str(tmp_path))
    # Index and table hold zstd frames, which are the library's to choose.
    for file in ("axes", "values", "components/axes", "components/values"):
        copy = tmp_path / make_part_v2.NAME / file
        assert copy.read_bytes() == (golden / file).read_bytes()
