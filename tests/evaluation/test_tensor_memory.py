import torch

from foveal.evaluation.tensor_memory import TensorMemory


def test_bytes_of_living_tensors_are_counted_and_old_ones_are_not() -> None:
    old = torch.zeros(1000)
    with TensorMemory() as memory:
        a = old + 1  # 4000 bytes
        b = a + 1
        assert memory.now == 8000
        del b
        view = old[10:]
        a.add_(1)
        assert memory.now == 4000
        (a * view.sum()).sum()
    assert memory.peak == 8004


def test_what_is_kept_for_the_backward_pass_counts_until_it_is_done() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with TensorMemory() as memory:
        loss = weight.exp().exp().sum()
        assert memory.now == 8004
        loss.backward()
        assert memory.peak >= 12000
