"""The last step of `make tiny`: the checkpoint as it is committed, with its code and a card.

    python -m ntlbg.training.tiny_package --figures docs/benchmarks/frames.json

writes checkpoints/ntlbg-tiny anew after the code or the figures changed.
"""

import argparse
from pathlib import Path

from ntlbg.model_card import CARD_NAME, model_card, read_figures
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor


WHAT = """\
A Qwen2-VL of {parameters:.2f} million parameters behind an NTLBG selector of {selector:.2f} million, trained from
scratch on a procedural world of coloured shapes in textured scenes. It knows nothing else: it is there so that the
library can be tried, tested and measured without a download."""

TRAINED = """\
By `make tiny`, from seeds alone, on one CPU thread. The vision tower learns colour, shape, place and background of
frames out of real h264 files. Its frozen features of the training videos (64 to 320 groups of two seconds) are then
cached. The language model learns to answer from 4 to 32 chosen groups, and at the end from up to 128, under a mixture
of ways to choose them. Last, the selector learns from the events' spans which groups hold evidence for a question.
{gate}
Its chat template puts the question before the video, whatever the order in the message."""

CLOSED_GATE = "The rich points' gate is still at zero.\n"


def package(source: Path, out: Path, figures: Path | None = None) -> None:
    """Save the checkpoint in `source` to `out` (they may be the same) with its code, processor and card.

    Args:
        figures: JSON of `ntlbg.evaluation.frames_benchmark` for these weights; without it the card says that nothing
            has been measured.
    """
    model = NTLBGForConditionalGeneration.from_pretrained(source)
    model.config.base_config._name_or_path = ""  # a folder of the machine it was trained on
    processor = NTLBGProcessor.from_pretrained(source)
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("*.py"):
        stale.unlink()
    model.save_pretrained(out)
    processor.save_pretrained(out)
    card = model_card(
        "ntlbg-tiny",
        what=WHAT.format(
            parameters=sum(p.numel() for p in model.vlm.parameters()) / 1e6,
            selector=sum(p.numel() for n, p in model.named_parameters() if not n.startswith("vlm.")) / 1e6,
        ),
        sections={"How it was trained": TRAINED.format(gate="" if model.rich_points.gate.any() else CLOSED_GATE)},
        measured=None if figures is None else read_figures(figures),
        place="checkpoints/ntlbg-tiny",
        licence="mit",
    )
    (out / CARD_NAME).write_text(str(card), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.2f} MB")


def main() -> None:
    """Write the committed checkpoint anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("checkpoints/ntlbg-tiny"))
    parser.add_argument("--out", type=Path, default=Path("checkpoints/ntlbg-tiny"))
    parser.add_argument("--figures", type=Path, help="JSON of `make bench-frames` for these weights")
    args = parser.parse_args()
    package(args.source, args.out, args.figures)


if __name__ == "__main__":
    main()
