"""The cards and the levels of the specification: what a GPU can hold and compute, what a level of video asks for."""

from dataclasses import dataclass

from ntlbg.errors import InputError


GIB = 2**30


@dataclass(frozen=True)
class Card:
    r"""
    One GPU class.

    Args:
        name: the tier's name, as `--gpu` takes it.
        memory: bytes a process can have, as `torch.cuda.get_device_properties(0).total_memory` reports, rounded down.
        bf16: whether tensor cores multiply bfloat16 (compute capability 8.0 and up).
        flash_attention: whether FlashAttention 2 has kernels for it (Ampere, Ada and Hopper; its README).
        tflops: peak of dense 16-bit matrix products with float32 sums, in 10^12 a second.
        link: bytes a second between card and host, one way, of its PCI Express generation with 16 lanes.
        source: where the peak is printed.
    """

    name: str
    memory: float
    bf16: bool
    flash_attention: bool
    tflops: float
    link: float
    source: str


_PCIE_3, _PCIE_4, _PCIE_5 = 16e9, 32e9, 64e9

CARDS = {
    card.name: card
    for card in (
        Card("V100_32GB", 31.7 * GIB, False, False, 125.0, _PCIE_3, "NVIDIA V100 data sheet (SXM2), tensor cores"),
        Card("A100_40GB", 39.4 * GIB, True, True, 312.0, _PCIE_4, "NVIDIA A100 data sheet, BF16 tensor cores, dense"),
        Card("A100_80GB", 79.1 * GIB, True, True, 312.0, _PCIE_4, "NVIDIA A100 data sheet, BF16 tensor cores, dense"),
        Card("H100_80GB", 79.1 * GIB, True, True, 989.0, _PCIE_5, "NVIDIA H100 data sheet (SXM), BF16, dense"),
        Card("H200_141GB", 139.7 * GIB, True, True, 989.0, _PCIE_5, "NVIDIA H200 data sheet (SXM), BF16, dense"),
        Card(
            "RTX4090_24GB",
            23.5 * GIB,
            True,
            True,
            165.2,
            _PCIE_4,
            "NVIDIA Ada architecture white paper, FP16 with FP32 sums, dense",
        ),
    )
}


@dataclass(frozen=True)
class Level:
    r"""
    One level of the specification's configuration table.

    Args:
        name: as `--category` takes it.
        minutes: video lengths it is for, from (inclusive) to (exclusive).
        representatives: k, in groups.
        max_frames: cap on the candidate frames.
        batch: videos a step and card.
        card: the card the specification names.
    """

    name: str
    minutes: tuple[float, float]
    representatives: int
    max_frames: int
    batch: int
    card: str

    @property
    def span(self) -> str:
        """Its lengths in words."""
        low, high = self.minutes
        return f"{low:g} minutes and more" if high == float("inf") else f"{low:g} to {high:g} minutes"


LEVELS = {
    level.name: level
    for level in (
        Level("moderate_long", (5, 10), 256, 2048, 2, "V100_32GB"),
        Level("long", (10, 20), 512, 4096, 1, "A100_40GB"),
        Level("very_long", (20, float("inf")), 1024, 8192, 1, "A100_80GB"),
    )
}


def card_of(name: str) -> Card:
    """The card of that name, in any case.

    Raises:
        InputError: there is none.
    """
    found = {known.lower(): card for known, card in CARDS.items()}.get(str(name).lower())
    if found is None:
        raise InputError(f"no card is called {name!r}; choose one of {', '.join(CARDS)}")
    return found


def level_of(seconds: float) -> Level | None:
    """The level for a video of so many seconds; None for one shorter than any level is for."""
    minutes = seconds / 60
    return next((level for level in LEVELS.values() if level.minutes[0] <= minutes < level.minutes[1]), None)
