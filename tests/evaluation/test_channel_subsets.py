import pytest

from foveal.evaluation.channel_subsets import evaluate_all_subsets, leave_groups_out


def test_every_subset_is_scored_once():
    seen = []
    scores = evaluate_all_subsets(lambda s: seen.append(s) or len(s) + (0 in s) / 2, 4)
    assert len(seen) == len(set(seen)) == 15
    mean, deviation, count = scores.by_size()[1]
    assert (mean, count) == (1.125, 4)
    assert deviation == pytest.approx(0.2165, abs=1e-4)
    assert scores.worst(1) == ((1,), 1.0)
    assert scores.worst() == ((1,), 1.0)
    assert "| 2 | 6 | 2.250 | 0.250 | 2.000 (1, 2) |" in scores.table()


def test_of_many_subsets_some_are_drawn_without_repetition():
    scores = evaluate_all_subsets(len, 8, max_subsets=10, sizes=[2, 4, 8])
    assert {size: row[2] for size, row in scores.by_size().items()} == {2: 10, 4: 10, 8: 1}


def test_groups_are_left_out_one_by_one():
    assert leave_groups_out(sum, {"radar": [0, 1], "optical": [2, 3]}) == {"radar": 5, "optical": 1}
    with pytest.raises(ValueError, match="two at least"):
        leave_groups_out(sum, {"all": [0, 1]})


@pytest.mark.parametrize("wrong", [{"sizes": [0]}, {"sizes": [4]}, {"sizes": []}, {"max_subsets": 0}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match="allowed"):
        evaluate_all_subsets(len, 3, **wrong)
