"""Makes what somebody would bring: a folder of pictures, a CSV of their classes, and the weights of a teacher.

    python examples/bring_your_teacher/make.py            (about a minute on two cores)

Pictures: UCI digits, 32 px, coloured ink on paper. Teacher: timm's resnet18, trained here on MNIST, drawn alike.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from models import SIDE, teacher
from PIL import Image
from safetensors.torch import save_file

from stages.domains.examples import EXAMPLES

KINDS = {"round": "0689", "straight": "147", "mixed": "235"}
"""What the project wants to know of a picture: the shape of the digit on it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make the pictures and the teacher of examples/bring-your-teacher.yaml"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="folder to write to")
    parser.add_argument("--pictures", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=150, help="training steps of the teacher")
    arguments = parser.parse_args()
    write_pictures(arguments.out / "pictures", arguments.pictures)
    write_teacher(arguments.out / "resnet18.safetensors", arguments.steps)
    print(f"{arguments.out}: pictures/, pictures/classes.csv and resnet18.safetensors are written")


def drawn(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A grey digit as a picture: resized, its ink in a random colour on light paper, uint8 (SIDE, SIDE, 3)."""
    ink = np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    ink = (ink / max(1.0, float(ink.max())))[..., None]
    paper, colour = rng.uniform(190, 250, 3), rng.uniform(0, 110, 3)
    return (paper * (1 - ink) + colour * ink).astype(np.uint8)


def write_pictures(folder: Path, rows: int) -> None:
    """PNG files and `classes.csv` (file, class)."""
    folder.mkdir(parents=True, exist_ok=True)
    kind_of = {digit: kind for kind, digits in KINDS.items() for digit in digits}
    rng = np.random.default_rng(0)
    with (folder / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "class"])
        for number, (image, label) in zip(range(rows), digits("uci-digits"), strict=False):
            name = f"{number:05d}.png"
            Image.fromarray(drawn(image, rng)).save(folder / name)
            table.writerow([name, kind_of[label]])


def write_teacher(path: Path, steps: int) -> None:
    """Train resnet18 on MNIST digits, margins cut off, and save its weights."""
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    samples = [(drawn(image[4:24, 4:24], rng), int(label)) for image, label in digits("mnist-5k")]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in samples])).permute(0, 3, 1, 2)
    truth = torch.tensor([label for _, label in samples])
    model = teacher(num_classes=10).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(len(truth), size=64))
        loss = torch.nn.functional.cross_entropy(model(pictures[rows].float() / 255), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    save_file(model.state_dict(), path)


def digits(name: str) -> list[tuple[np.ndarray, str]]:
    """(grey picture (height, width), digit) of an example data set."""
    columns = EXAMPLES.get(name).rows()
    order = np.random.default_rng(2).permutation(len(columns["label"]))
    return [(np.squeeze(columns["image"][row]), str(columns["label"][row])) for row in order]


if __name__ == "__main__":
    main()
