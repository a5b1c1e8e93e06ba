"""Similarities: sparse, by id, exact among the first places, the same whatever order rows come in."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from kit import Gallery, Predictions
from kit.offline import similarities
from kit.offline.errors import DataError
from kit.offline.similarities import Similarities, nearest


def gallery_of(labels: list[str], size: int = 6, seed: int = 0) -> Gallery:
    return Gallery(tuple(labels), np.random.RandomState(seed).normal(size=(len(labels), size)).astype(np.float32))


def queries(count: int, size: int = 6, seed: int = 1) -> Predictions:
    draw = np.random.RandomState(seed)
    ids = np.array([f"{number:04d}q" for number in draw.permutation(count)])
    return Predictions(ids, draw.normal(size=(count, size)), tuple(f"e{at}" for at in range(size)))


def dense_of(one: Predictions, gallery: Gallery) -> dict[tuple[str, str], float]:
    """The greatest cosine of each query to each label, the plain way."""
    best: dict[tuple[str, str], float] = {}
    for name, query in zip(one.ids, one.values, strict=True):
        for label, known in zip(gallery.labels, gallery.values, strict=True):
            cosine = float(query @ known / np.linalg.norm(query) / np.linalg.norm(known))
            best[name, label] = max(cosine, best.get((name, label), -2.0))
    return best


LABELS = ["w_b", "w_a", "w_c", "w_a", "new", "w_b", "w_d"]


def test_the_nearest_of_a_label_counts():
    """Each row holds the greatest cosine to any of a label's embeddings, falling, and none of the label left out."""
    gallery, asked = gallery_of(LABELS), queries(9)
    said = nearest(asked, gallery, "new")
    assert said.ids.tolist() == asked.ids.tolist()
    assert set(said.columns) == {"w_a", "w_b", "w_c", "w_d"}
    assert (np.diff(said.values, axis=1) <= 0).all()
    frame, plain = said.frame(), dense_of(asked, gallery)
    for name in said.ids:
        for label in said.columns:
            assert frame.loc[name, label] == pytest.approx(plain[name, label], abs=1e-6)
    assert said.labels(1)[:, 0].tolist() == frame.idxmax(axis=1).tolist()


def test_a_gallery_without_labels_is_refused():
    """Nothing but the unknown in the gallery cannot answer anything."""
    with pytest.raises(DataError, match="gallery"):
        nearest(queries(2), gallery_of(["new", "new"]), "new")


def test_embeddings_are_compared_by_angle():
    """The length of a mean of views plays no part."""
    gallery, asked = gallery_of(LABELS), queries(5)
    longer = Predictions(asked.ids, asked.values * 7, asked.columns)
    assert np.allclose(nearest(asked, gallery).values, nearest(longer, gallery).values, atol=1e-6)


@pytest.mark.parametrize("kept", [2, 100])
@pytest.mark.parametrize("cells", [1, 4_000_000])
def test_tables_answer_by_id(monkeypatch, kept, cells):
    """align, only and join give the rows of the ids asked for, in whatever blocks and with whatever was left out."""
    monkeypatch.setattr(similarities, "KEPT", kept)
    monkeypatch.setattr(similarities, "CELLS", cells)
    said = nearest(queries(9), gallery_of(LABELS))
    some = said.ids[[7, 2, 5]]
    assert (said.align(some).values == said.values[[7, 2, 5]]).all()
    assert said.only(some).ids.tolist() == [name for name in said.ids if name in set(some)]
    with pytest.raises(DataError, match="nobody"):
        said.align(["nobody"])
    with pytest.raises(DataError, match="repeated"):
        said.align([some[0], some[0]])
    rest = said.only(set(said.ids) - set(some))
    joined = Similarities.join([said.align(some), rest])
    assert (joined.align(said.ids).values == said.values).all()
    assert (joined.align(said.ids).labels(2) == said.labels(2)).all()
    with pytest.raises(DataError, match="repeated"):
        Similarities.join([said, rest])


def test_a_join_over_other_labels_keeps_each_row_its_own():
    """Rows of a part whose gallery lacks a label never rank it before one that it knows."""
    one = nearest(queries(3), gallery_of(["a", "b"]))
    two = nearest(Predictions(np.array(["x", "y"]), queries(2).values, queries(2).columns), gallery_of(["c", "b"]))
    joined = Similarities.join([one, two])
    assert joined.columns == ("a", "b", "c")
    assert set(joined.only(one.ids).labels(2).ravel()) == {"a", "b"}
    assert set(joined.only(two.ids).labels(2).ravel()) == {"b", "c"}


def test_a_blend_is_the_weighted_mean_by_label():
    """With all labels kept a blend is exact, rows matched by id, whatever the order of rows or labels in its parts."""
    one, two = nearest(queries(9), gallery_of(LABELS)), nearest(queries(9, seed=1), gallery_of(LABELS[::-1], seed=3))
    blended = Similarities.blend([one, two.align(two.ids[::-1])], [0.25, 0.75])
    wanted = one.frame() * 0.25 + two.frame().loc[one.ids, list(one.columns)] * 0.75
    assert np.allclose(blended.frame()[list(one.columns)], wanted, atol=1e-6)
    assert Similarities.blend([one], [3.0]) is one


def test_a_label_that_a_member_lacks_is_judged_by_the_others():
    """Members of other folds know other labels; what nobody but one knows keeps that one's similarity."""
    ids = np.array(["photo"])
    one = Similarities(ids, np.array([[0.9, 0.2]], np.float32), ("A", "F"), np.array([[0, 1]], np.int32))
    two = Similarities(ids, np.array([[0.8, 0.5]], np.float32), ("A", "G"), np.array([[1, 0]], np.int32))
    blended = Similarities.blend([one, two], [0.5, 0.5])
    assert blended.frame().loc["photo"].to_dict() == pytest.approx({"A": 0.7, "F": 0.2, "G": 0.8})
    assert blended.labels(3).tolist() == [["G", "A", "F"]]


def test_what_a_member_left_out_counts_as_its_last(monkeypatch):
    """A label in one member's list alone does not win by the other's silence."""
    monkeypatch.setattr(similarities, "KEPT", 2)
    ids, labels = np.array(["photo"]), ("A", "B", "C")
    one = Similarities(ids, np.array([[0.9, 0.6]], np.float32), labels, np.array([[0, 1]], np.int32))
    two = Similarities(ids, np.array([[0.7, 0.1]], np.float32), labels, np.array([[2, 0]], np.int32))
    blended = Similarities.blend([one, two], [0.5, 0.5])
    # C: (0.6 + 0.7) / 2, A: (0.9 + 0.1) / 2; leaving C out of the first member would have given it 0.7
    assert blended.labels(2).tolist() == [["C", "A"]]
    assert blended.values[0].tolist() == pytest.approx([0.65, 0.5])


@pytest.mark.parametrize("cells", [1, 4_000_000])
def test_photographs_of_a_unit_are_averaged(monkeypatch, cells):
    """mean_by and max_by are those of the dense table, units in order of appearance; a unit of one row is kept."""
    monkeypatch.setattr(similarities, "CELLS", cells)
    said = nearest(queries(7), gallery_of(LABELS))
    unit = {name: f"u{at % 3}" for at, name in enumerate(said.ids)}
    grouped = said.frame().groupby([unit[name] for name in said.ids], sort=False)
    mean, most = said.mean_by(unit), said.max_by(unit)
    assert mean.ids.tolist() == ["u0", "u1", "u2"]
    assert np.allclose(mean.frame(), grouped.mean(), atol=1e-6)
    assert np.allclose(most.frame(), grouped.max(), atol=1e-6)
    alone = said.mean_by({name: name + "u" for name in said.ids})
    assert (alone.values == said.values).all() and alone.ids[0] == said.ids[0] + "u"


def test_equal_similarities_keep_the_order_of_labels():
    """Ties are broken by the label's place, not by chance."""
    gallery = Gallery(("b", "a", "c"), np.ones((3, 4), np.float32))
    assert nearest(queries(1, 4), gallery).labels(3).tolist() == [["a", "b", "c"]]


def test_thousands_of_labels_take_little_memory(monkeypatch):
    """Comparing, blending and joining rows by many labels never holds as much as half of one dense table."""
    monkeypatch.setattr(similarities, "CELLS", 100_000)
    count, labels = 3000, 3000
    gallery, asked = gallery_of([f"h{at}" for at in range(labels)], 8), queries(count, 8)
    tracemalloc.start()
    try:
        said = nearest(asked, gallery)
        blended = Similarities.blend([said, said.align(said.ids[::-1])], [0.5, 0.5])
        Similarities.join([blended.only(said.ids[: count // 2]), blended.only(said.ids[count // 2 :])])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said.values.nbytes + said.codes.nbytes == count * 100 * 8
    assert np.allclose(blended.values[:, :50], said.values[:, :50], atol=1e-6)
    assert peak < count * labels * 4 / 2


def test_no_rows_are_no_rows():
    """A fold or a test set without rows gives tables without rows."""
    said = nearest(queries(3), gallery_of(LABELS)).only([])
    assert len(said) == 0 and said.frame().shape == (0, 5)
    assert len(Similarities.blend([said, said], [1, 1])) == 0
