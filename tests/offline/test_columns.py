"""kit/offline/columns.py"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from kit.offline.columns import MAX_VALUES, learn_columns, table_of, table_width
from kit.offline.errors import DataError
from kit.offline.manifest import preparation_from
from kit.offline.pixels import Preparation

TRAIN = pd.DataFrame(
    {
        "sample_id": list("zaqkb"),
        "age": ["45.0", "", "50", "75", "1e1"],
        "weight": [1.5, np.nan, 2.5, 3.5, 100.0],
        "place": ["torso", "head", "", "torso", "arm"],
    }
)


def test_numbers_are_standardised_and_blanks_take_the_median():
    """The rows that train have mean 0 and deviation 1 with blanks at the median; text and number cells are alike."""
    table = table_of(TRAIN, learn_columns(TRAIN, ["age", "weight"]))
    assert table.dtype == np.float32
    np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(table.std(axis=0), 1, atol=1e-6)
    filled = np.array([45, 47.5, 50, 75, 10])
    np.testing.assert_allclose(table[:, 0], (filled - filled.mean()) / filled.std(), atol=1e-6)


def test_other_rows_are_measured_by_the_rows_that_train():
    """A row alone, and rows in another order, get what they got among the rest."""
    columns = learn_columns(TRAIN, ["age", "weight", "place"])
    whole = table_of(TRAIN, columns)
    for at in range(len(TRAIN)):
        assert (table_of(TRAIN.iloc[[at]], columns) == whole[[at]]).all()
    assert (table_of(TRAIN.iloc[::-1], columns) == whole[::-1]).all()
    assert table_of(TRAIN.head(0), columns).shape == (0, 5)


def test_words_have_a_number_for_each_value():
    """Known words are one-hot in the order of text; a blank and a word that training lacks are all zeros."""
    columns = learn_columns(TRAIN, ["place"])
    assert table_width(columns) == 3
    assert table_of(TRAIN, columns).tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    other = TRAIN.assign(place=["soles", None, "arm", " ", "torso"])
    assert table_of(other, columns).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_a_constant_or_blank_column_is_zero():
    """No division by a deviation of nothing, and no NaN out of a column without a cell."""
    frame = TRAIN.assign(same="7", none="")
    columns = learn_columns(frame, ["same", "none"])
    assert (table_of(frame, columns) == 0).all()
    assert table_of(frame.assign(same="9"), columns)[:, 0].tolist() == [2.0] * 5


def test_columns_travel_in_the_preparation():
    """Through JSON with sorted keys and back, the numbers and the order of the columns are the same."""
    columns = learn_columns(TRAIN, ["weight", "place", "age"])
    raw = json.loads(json.dumps(vars(Preparation((8, 8), (0.5,), (0.5,), table=columns)), sort_keys=True))
    assert (table_of(TRAIN, preparation_from(raw).table) == table_of(TRAIN, columns)).all()


def test_cells_that_do_not_fit_are_named():
    """A word in a column of numbers, infinity, ids as words and a missing column are errors by name."""
    columns = learn_columns(TRAIN, ["age"])
    with pytest.raises(DataError, match="q='old'"):
        table_of(TRAIN.assign(age=["1", "2", "old", "4", ""]), columns)
    with pytest.raises(DataError, match="inf"):
        learn_columns(TRAIN.assign(age=["1", "2", "inf", "4", ""]), ["age"])
    with pytest.raises(DataError, match="did you mean 'age'"):
        learn_columns(TRAIN, ["agee"])
    with pytest.raises(DataError, match="'age'"):
        table_of(TRAIN.drop(columns="age"), columns)
    many = pd.DataFrame({"sample_id": range(MAX_VALUES + 1), "name": [f"n{n}" for n in range(MAX_VALUES + 1)]})
    with pytest.raises(DataError, match=f"{MAX_VALUES + 1} values"):
        learn_columns(many, ["name"])


def test_a_constant_fraction_is_constant_too():
    """Three times 0.1 has a mean of 0.1 plus 1e-17: that rounding is no deviation to divide by."""
    frame = TRAIN.assign(same="0.1")
    columns = learn_columns(frame, ["same"])
    assert abs(table_of(frame.assign(same="0.2"), columns)).max() <= 1
