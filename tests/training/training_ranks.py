"""One process of a distributed run on CPU: it trains, resumes, and tells what it saw."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from foveal.objectives.base import Objective
from foveal.training.loop import fit
from foveal.training.settings import TrainingSettings

SETTINGS = TrainingSettings(
    steps=6,
    batch_size=8,
    gradient_accumulation=2,
    ema_decay=0.9,
    gradient_clip=1.0,
    checkpoint_every=2,
    log_every=3,
    evaluate_every=3,
    tensorboard=False,
    device="cpu",
)


class Numbered:
    def __len__(self):
        return 13

    def sample(self, index, generator):
        return {"x": torch.randn(4, generator=generator), "y": torch.tensor(float(index % 3)), "ids": index}


class Regression(Objective):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.seen = []

    def forward(self, batch):
        self.seen.append(batch["ids"].tolist())
        return {"loss": (self.network(batch["x"])[:, 0] - batch["y"]).square().mean()}


def train(objective, folder, rank, **changes):
    return fit(
        objective,
        Numbered(),
        SETTINGS.replace(**changes),
        folder=folder,
        evaluate=lambda model: {"figure": float(rank) + 5.0},
        monitor="figure",
    )


def replay_sharded(rank):
    """Average, optimiser state and weights of an FSDP2 model, gathered, loaded into a fresh one, compared."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from foveal.training.averaging import WeightAverage
    from foveal.training.checkpoints import load_optimizer_tensors, optimizer_tensors
    from foveal.training.sharding import whole
    from foveal.training.snapshots import load_weights

    mesh = init_device_mesh("cpu", (2,))

    def build(seed):
        torch.manual_seed(seed)
        model = fully_shard(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), mesh=mesh)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True), WeightAverage(model, 0.5)

    def steps(parts, first, last):
        model, optimizer, average = parts
        for step in range(first, last):
            data = torch.randn(3, 4, generator=torch.Generator().manual_seed(10 * step + rank))
            model(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(step)

    def gathered(parts):
        model, optimizer, average = parts
        tensors = (model.state_dict(), optimizer_tensors(model, optimizer), average.state())
        return [whole(each) for each in tensors]

    straight, resumed = build(0), build(1)
    steps(straight, 0, 3)
    weights, moments, averages = gathered(straight)
    load_weights(resumed[0], weights)
    load_optimizer_tensors(resumed[0], resumed[1], moments)
    resumed[2].load(averages)
    steps(straight, 3, 6)
    steps(resumed, 3, 6)
    shapes = [tuple(value.shape) for value in weights.values()]
    same = all(
        torch.equal(one[name], other[name])
        for one, other in zip(gathered(straight), gathered(resumed), strict=True)
        for name in one
    )
    return shapes, same


def main(folder: Path) -> None:
    from accelerate import PartialState

    torch.set_num_threads(1)
    rank = PartialState(cpu=True).process_index
    straight = Regression()
    result = train(straight, None, rank)
    train(Regression(), folder, rank, schedule="constant", steps=4)
    resumed, longer = Regression(), Regression()
    train(resumed, folder, rank, schedule="constant")
    train(longer, None, rank, schedule="constant")
    shapes, same = replay_sharded(rank)
    told = {
        "seen": straight.seen,
        "weights": [value.tolist() for value in straight.state_dict().values()],
        "losses": [row["loss"] for row in result.history if "loss" in row],
        "best": result.best.value,
        "resumed_calls": len(resumed.seen),
        "resumed_is_same": all(
            torch.equal(one, other)
            for one, other in zip(resumed.state_dict().values(), longer.state_dict().values(), strict=True)
        ),
        "sharded_shapes": shapes,
        "sharded_is_same": same,
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
