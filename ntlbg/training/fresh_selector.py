"""Another training seed of a checkpoint: its base, with an untrained selector drawn from a seed in front.

python -m ntlbg.training.fresh_selector checkpoints/ntlbg-tiny --seed 1 --out build/seeds/1/untrained
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training.tiny_model import SELECTOR


def fresh_model(model: NTLBGForConditionalGeneration, seed: int) -> NTLBGForConditionalGeneration:
    """An untrained selector, rich points and transition, drawn from `seed`, in front of `model`'s own base."""
    torch.manual_seed(seed)
    return NTLBGForConditionalGeneration.from_base(model.vlm, config_kwargs=SELECTOR)


def main(arguments: list[str] | None = None) -> None:
    """Write the checkpoint with its processor: what `train.py` begins from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a tiny NTLBG checkpoint, whose base is taken")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    args = parser.parse_args(arguments)
    fresh_model(NTLBGForConditionalGeneration.from_pretrained(args.checkpoint), args.seed).save_pretrained(args.out)
    NTLBGProcessor.from_pretrained(args.checkpoint).save_pretrained(args.out)


if __name__ == "__main__":
    main()
