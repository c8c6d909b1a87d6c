"""Train the seed model and save it the usual ways; write the rows that the other steps use.

    python train.py [FOLDER]

Leaves digits.pt (state_dict), digits.pt2 (torch.export), digits8.pt (classes 0 to 7 only), scrambled.pt (trained on
wrong labels), and the rows: train.npz, test.npz, changed.npz (the world after the change), changed_test.npz, again.npz.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from digits_mlp import MLP, EightClasses
from sklearn.datasets import load_digits
from torch import nn
from world import World, changed, changed_again

EPOCHS = 60


def fit(module: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> nn.Module:
    """Plain full-width training; a few seconds."""
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    x, y = torch.from_numpy(pixels), torch.from_numpy(labels)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
    return module.eval()


def main(folder: Path) -> None:
    """Everything of the docstring above, from one seed."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the sums of several threads differ in their last digits from run to run
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order].astype(np.float32), labels[order].astype(np.int64)
    rows = {"train": slice(0, 900), "test": slice(900, 1347), "stream": slice(1347, None)}
    train, test = rows["train"], rows["test"]

    for name, part in rows.items():
        np.savez(folder / f"{name}.npz", pixels=pixels[part], labels=labels[part])
    for name, change, part in (
        ("changed", changed, train),
        ("changed_test", changed, test),
        ("again_test", changed_again, test),
    ):
        world = World(pixels[part], labels[part], change=change, seed=1)
        np.savez(folder / f"{name}.npz", pixels=world.change(world.pixels, world.rng), labels=labels[part])

    model = fit(MLP(), pixels[train], labels[train])
    torch.save(model.state_dict(), folder / "digits.pt")
    batch = torch.export.Dim("batch", min=1, max=65536)
    exported = torch.export.export(model, (torch.zeros(2, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, folder / "digits.pt2")

    known = labels[train] < 8
    eight = fit(EightClasses(), pixels[train][known], labels[train][known])
    torch.save(eight.state_dict(), folder / "digits8.pt")
    np.savez(folder / "train8.npz", pixels=pixels[train][known], labels=labels[train][known])

    wrong = np.random.default_rng(1).permutation(labels[train])
    torch.save(fit(MLP(), pixels[train], wrong).state_dict(), folder / "scrambled.pt")
    right = (model(torch.from_numpy(pixels[test])).argmax(1).numpy() == labels[test]).mean()
    print(f"trained on {len(pixels[train])} digits; accuracy {right:.4f} on {len(pixels[test])} others")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
