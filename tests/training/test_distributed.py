import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_ranks import Regression, train


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes saw; by torchrun, as `accelerate launch` starts several on CPU through MPI only."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    script = Path(__file__).with_name("training_ranks.py")
    done = subprocess.run([*launch, str(script), str(folder)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_processes_see_other_samples_and_together_those_of_one_process(ranks):
    alone = Regression()
    train(alone, None, 0)
    first, second = ranks[0]["seen"], ranks[1]["seen"]
    assert [mine + yours for mine, yours in zip(first, second, strict=True)] == alone.seen


@pytest.mark.slow
def test_processes_agree_and_match_one_process(ranks):
    assert ranks[0]["weights"] == ranks[1]["weights"]
    alone = Regression()
    result = train(alone, None, 0)
    for told, value in zip(ranks[0]["weights"], alone.state_dict().values(), strict=True):
        torch.testing.assert_close(torch.tensor(told), value, rtol=1e-4, atol=1e-5)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert ranks[0]["losses"] == pytest.approx(losses, rel=1e-4), "logged losses are means over the processes"


@pytest.mark.slow
def test_figures_of_the_first_process_count_for_all(ranks):
    assert [told["best"] for told in ranks] == [5.0, 5.0]


@pytest.mark.slow
def test_distributed_run_resumes_with_the_same_bits(ranks):
    assert [told["resumed_is_same"] for told in ranks] == [True, True]
    assert [told["resumed_calls"] for told in ranks] == [4, 4]


@pytest.mark.slow
def test_sharded_state_is_gathered_whole_and_loads_back_with_the_same_bits(ranks):
    for told in ranks:
        assert told["sharded_shapes"] == [[6, 4], [6], [1, 6], [1]]
        assert told["sharded_is_same"]
