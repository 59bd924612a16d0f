"""Train as in Ray's documentation for PyTorch: TorchTrainer, a DDP model, a report and a checkpoint in each epoch.

`python -m ops.benchmark.torch_trainer MNIST.npz WORKERS GLOBAL_BATCH LEARNING_RATE`, on the notebook's model and data.
Prints its result as JSON. After the training, it evaluates the last checkpoint on the test images.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_data_loader, prepare_model
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 10


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )


def tensors(data: str, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(data) as arrays:
        images = torch.from_numpy(arrays[f"x_{part}"].reshape(-1, 784).astype("float32") / 255)
        return images, torch.from_numpy(arrays[f"y_{part}"].astype("int64"))


def train(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    images, labels = tensors(config["data"], "train")
    at = len(images) * 4 // 5
    batch = config["batch"] // context.get_world_size()
    training = prepare_data_loader(DataLoader(TensorDataset(images[:at], labels[:at]), batch, shuffle=True))
    validation = prepare_data_loader(DataLoader(TensorDataset(images[at:], labels[at:]), batch))
    model = prepare_model(network())
    cross_entropy = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=config["rate"])

    started = time.perf_counter()
    for epoch in range(EPOCHS):
        if context.get_world_size() > 1:
            training.sampler.set_epoch(epoch)
        model.train()
        for x, y in training:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        loss, correct, seen = 0.0, 0, 0
        with torch.no_grad():
            for x, y in validation:
                scores = model(x)
                loss += cross_entropy(scores, y).item() * len(y)
                correct += (scores.argmax(1) == y).sum().item()
                seen += len(y)
        metrics = {"loss": loss / seen, "accuracy": correct / seen}
        if context.get_world_rank() > 0:
            ray.train.report(metrics)
            continue
        with tempfile.TemporaryDirectory() as folder:
            inner = model.module if context.get_world_size() > 1 else model
            torch.save(inner.state_dict(), Path(folder, "model.pt"))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
    if context.get_world_rank() == 0:  # after the last report, so that the time includes the last checkpoint
        Path(config["seconds"]).write_text(str(time.perf_counter() - started))


def main(data: str, workers: str, batch: str, rate: str, folder: str) -> None:
    ray.init(address="local")  # do not connect to a cluster that may already run on this machine
    seconds = Path(folder, "seconds")
    trainer = TorchTrainer(
        train,
        train_loop_config={"data": data, "batch": int(batch), "rate": float(rate), "seconds": str(seconds)},
        scaling_config=ScalingConfig(num_workers=int(workers)),
        run_config=RunConfig(storage_path=folder, checkpoint_config=CheckpointConfig(num_to_keep=1)),
    )
    model = network()
    last = trainer.fit().checkpoint
    assert last is not None
    with last.as_directory() as checkpoint:
        model.load_state_dict(torch.load(Path(checkpoint, "model.pt")))
    images, labels = tensors(data, "test")
    with torch.no_grad():
        scores = model(images)
        loss = torch.nn.functional.cross_entropy(scores, labels).item()
    accuracy = (scores.argmax(1) == labels).float().mean().item()
    print(json.dumps({"training": float(seconds.read_text()), "accuracy": accuracy, "loss": loss}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(*sys.argv[1:], folder)  # type: ignore[call-arg]  # the row gives the right number of arguments
