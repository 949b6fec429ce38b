"""What a command takes of the machine: device, memory, random numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.types import BYTES, SEED
from boldreams_cli.console import BoldreamsError, ChoiceError

if TYPE_CHECKING:
    import torch


def device_option(command: Command) -> Command:
    """Add --device."""
    return option("--device", default="auto", metavar="auto|cpu|cuda|cuda:N", help="The device to compute on.")(command)


def seed_option(command: Command) -> Command:
    """Add --seed."""
    return option("--seed", type=SEED, default=0, help="The seed of all random numbers.")(command)


def memory_option(command: Command) -> Command:
    """Add --memory."""
    told = "About how much memory to use at most; below 1G it may not be kept."
    return option("--memory", type=BYTES, default="4G", help=told)(command)


def pick_device(name: str) -> torch.device:
    """Turn --device into a torch device, which is ready to compute in float32 as IEEE says.

    Raises
    ------
    ChoiceError
        If it is none.
    BoldreamsError
        If CUDA was asked for and is not there.
    """
    import torch

    from boldreams_cli.machine import ieee_products

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ChoiceError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N (--device)")
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise BoldreamsError("no CUDA device is available here; use --device cpu or --device auto")
        if int((name + ":0").split(":")[1]) >= torch.cuda.device_count():
            raise BoldreamsError(f"no device {name}; there are {torch.cuda.device_count()} (--device)")
    device = torch.device(name)
    ieee_products(device)
    if device.index is not None:
        torch.cuda.set_device(device)  # what is pinned for it is pinned by it, and none other is opened
    return device
