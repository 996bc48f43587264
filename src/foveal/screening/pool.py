"""Many photographs over several processes, of which any may be killed without stopping the run."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Generic, TypeVar

from foveal.machine import become_worker

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable | None = None


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(make_work: Callable[[], Callable], threads: int) -> None:
    """Prepare a worker process; the heavy imports happen after the thread counts are set."""
    global _work
    become_worker()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)
    _work = make_work()


def _do(item: Any) -> Any:
    assert _work is not None, "the initializer has run in every worker"
    return _work(item)


class WorkerPool(Generic[Item, Result]):
    """Maps a function over items in `workers` processes, with a bounded number of items under way.

    Args:
        make_work: called once in each process (picklable); returns the function to apply. Load models here.
        workers: number of processes.
        threads: threads that each process may use.
        lost: result for an item whose process died twice, the second time with nothing else beside it.
    """

    def __init__(
        self,
        make_work: Callable[[], Callable[[Item], Result]],
        *,
        workers: int,
        threads: int,
        lost: Callable[[Item], Result],
    ) -> None:
        self.make_work, self.workers, self.threads, self.lost = make_work, workers, threads, lost

    def _executor(self, workers: int) -> ProcessPoolExecutor:
        # Forking a process that has threads (torch, the progress bar) may deadlock; spawning never does.
        return ProcessPoolExecutor(
            workers,
            mp_context=get_context("spawn"),
            initializer=_start_worker,
            initargs=(self.make_work, self.threads),
        )

    def map(self, items: Sequence[Item]) -> Iterator[Result]:
        """Results as they come, one for each item, in no particular order."""
        queue = deque(items)
        while queue:
            suspects: list[Item] = []
            yield from self._until_broken(queue, suspects)
            yield from self._one_by_one(suspects)

    def _until_broken(self, queue: deque[Item], suspects: list[Item]) -> Iterator[Result]:
        """Work through `queue`; when a process dies, stop and name the items that were under way."""
        executor = self._executor(self.workers)
        under_way: dict[Future, Item] = {}
        try:
            while queue or under_way:
                while queue and len(under_way) < 2 * self.workers:
                    under_way[executor.submit(_do, queue[0])] = queue[0]
                    queue.popleft()
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    del under_way[future]
                    yield result
        except BrokenProcessPool:
            suspects.extend(under_way.values())
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _one_by_one(self, suspects: list[Item]) -> Iterator[Result]:
        """Give each item a second try with nothing beside it, so that only the guilty one is lost."""
        executor: ProcessPoolExecutor | None = None
        try:
            for item in suspects:
                executor = executor or self._executor(1)
                try:
                    yield executor.submit(_do, item).result()
                except BrokenProcessPool:
                    executor.shutdown(wait=True)
                    executor = None
                    yield self.lost(item)
        finally:
            if executor is not None:
                executor.shutdown(wait=True, cancel_futures=True)
