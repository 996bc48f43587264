from screening_parts import lost, make_square, make_square_or_die

from foveal.screening.pool import WorkerPool


def test_every_item_gets_its_result():
    pool = WorkerPool(make_square, workers=2, threads=1, lost=lost)
    assert sorted(pool.map(range(20))) == [number**2 for number in range(20)]


def test_a_killed_process_loses_only_the_item_that_kills_it():
    pool = WorkerPool(make_square_or_die, workers=2, threads=1, lost=lost)
    results = list(pool.map(range(10, 20)))
    assert sorted(results) == sorted([-13, *(number**2 for number in range(10, 20) if number != 13)])


def test_no_items_start_no_process():
    assert list(WorkerPool(make_square, workers=2, threads=1, lost=lost).map([])) == []
