"""`ntlbg export`: a checkpoint as it is released: whole or the selector alone, with code, processor and card."""

from __future__ import annotations

import argparse
import re
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from ntlbg.cli_common import UsageError, quiet_libraries
from ntlbg.errors import InputError, first_sentence


EPILOG = """\
examples:
  ntlbg export runs/mine release/                                              # whole, with code, processor and card
  ntlbg export runs/mine release/ --selector-only --base Qwen/Qwen2-VL-7B-Instruct
  ntlbg export runs/mine release/ --selector-only --push-to me/ntlbg-qwen2-vl --private

A selector-only checkpoint names its base (and the commit of it) and fetches it when it is loaded. It is refused where
the base's weights were trained, as after the stages joint and end_to_end: they would be lost.
"""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "export",
        help="a checkpoint for release, whole or the selector alone, and its way to the Hub",
        description="Write a checkpoint for release: weights, code, processor and card; push it if told to.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="an NTLBG checkpoint: folder or Hub name")
    parser.add_argument("out", metavar="OUT", help="folder to write; new, or empty")
    parser.add_argument(
        "--selector-only", action="store_true", help="leave out the base's weights, which are fetched from --base"
    )
    parser.add_argument(
        "--base", metavar="NAME[@REV]|DIR", help="where the base is fetched from (default: where it was loaded from)"
    )
    parser.add_argument(
        "--max-shard-size", default="50GB", metavar="SIZE", help="largest file of weights (default: %(default)s)"
    )
    parser.add_argument(
        "--figures",
        metavar="FILE",
        help="what was measured with these weights: JSON of `python -m ntlbg.evaluation.frames_benchmark`, or a run's "
        "summary.json (default: the checkpoint's own card, if it has one)",
    )
    parser.add_argument("--license", metavar="ID", help="of the weights, as the Hub abbreviates it; for the card")
    parser.add_argument("--push-to", metavar="OWNER/NAME", help="also push the folder to this repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make that repository private, where it is new")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Load, save, write the card, push.

    Raises:
        UsageError, InputError: see their messages.
    """
    _check(args)
    quiet_libraries()

    from transformers.configuration_utils import PreTrainedConfig
    from transformers.utils.hub import convert_file_size_to_int

    from ntlbg.hub_push import push_folder
    from ntlbg.model_card import CARD_NAME, read_figures
    from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
    from ntlbg.processors.processing_ntlbg import NTLBGProcessor
    from ntlbg.selection.encoders import LOADING_ERRORS

    measured = None if args.figures is None else read_figures(args.figures)
    out = Path(args.out)
    try:
        convert_file_size_to_int(args.max_shard_size)
    except ValueError as error:
        raise UsageError(f"--max-shard-size {args.max_shard_size!r} is no size; give one like 5GB or 200MB") from error
    try:
        kind = PreTrainedConfig.get_config_dict(args.checkpoint)[0].get("model_type")
        if kind != "ntlbg":
            raise InputError(
                f"{args.checkpoint!r} is no NTLBG checkpoint, but a model of type {kind!r}; put a selector in front "
                "of it with NTLBGForConditionalGeneration.from_base, or by train.py"
            )
        model = NTLBGForConditionalGeneration.from_pretrained(args.checkpoint, dtype="auto")
        processor = NTLBGProcessor.from_pretrained(args.checkpoint)
    except InputError:
        raise
    except LOADING_ERRORS as error:
        raise InputError(f"the checkpoint {args.checkpoint!r} cannot be loaded: {one_sentence(error)}") from error
    chosen = {"selector_only": True, "base_name_or_path": args.base} if args.selector_only else {}
    try:
        model.save_pretrained(out, max_shard_size=args.max_shard_size, **chosen)
    except LOADING_ERRORS as error:
        raise InputError(one_sentence(error).replace("`base_name_or_path=`", "--base")) from error
    processor.save_pretrained(out)
    (out / CARD_NAME).write_text(_card(args, model, measured), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if not args.quiet:
        print(f"wrote {args.out}: {size / 1e6:.1f} MB")
    if args.push_to is not None:
        address = push_folder(out, args.push_to, message="Export", private=args.private or None)
        if not args.quiet:
            print(f"pushed {address}")


def one_sentence(error: Exception) -> str:
    """Ours are one already, whatever full stops are in them; of a library's the first."""
    text = " ".join(str(error).split())
    return text.rstrip(".") if isinstance(error, ValueError | OSError) and len(text) < 600 else first_sentence(error)


def _check(args: argparse.Namespace) -> None:
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"OUT {args.out!r} is there and not an empty folder; choose another name")
    if args.base is not None and not args.selector_only:
        raise UsageError("--base names what --selector-only leaves out; give both, or neither")
    if args.private and args.push_to is None:
        raise UsageError("--private needs --push-to OWNER/NAME")
    # The card names it, before the Hub could add an owner.
    if args.push_to is not None and re.fullmatch(r"[^/\s]+/[^/\s]+", args.push_to) is None:
        raise UsageError(f"--push-to {args.push_to!r} is no name of a repository; give OWNER/NAME")


def _card(args: argparse.Namespace, model, measured) -> str:
    """The checkpoint's own card under its new name, where it has one and nothing else was measured; else a new one."""
    from huggingface_hub import ModelCard
    from transformers.utils.hub import cached_file

    from ntlbg.model_card import CARD_NAME, is_hub_name, model_card
    from ntlbg.training.run_card import WHAT

    base = str(args.base or model.config.base_config.name_or_path or "").partition("@")[0]
    title = args.push_to or Path(args.out).resolve().name
    found = cached_file(args.checkpoint, CARD_NAME, _raise_exceptions_for_missing_entries=False)
    old = None if found is None else ModelCard.load(found, ignore_metadata_errors=True)
    relation = "adapter" if args.selector_only else "finetune"
    if old is not None and measured is None:
        if is_hub_name(base):
            old.data.base_model, old.data.base_model_relation = base, relation
        old.data.license = args.license or old.data.license
        if old.data.eval_results:
            old.data.model_name = title
        old.text = _renamed(old.text, title)
        return str(old)
    return str(
        model_card(
            title,
            what=WHAT,
            measured=measured,
            base_model=base or None,
            base_relation=relation,
            datasets=list(old.data.datasets or ()) if old is not None else (),
            licence=args.license or (None if old is None else old.data.license),
        )
    )


def _renamed(text: str, title: str) -> str:
    """A card's text with its title, and the place that its example loads from, replaced."""
    text = re.sub(r"\A\s*# .*", lambda _: f"\n# {title}", text)
    return re.sub(r'(?<=from_pretrained\(")[^"\n]*(?=", trust_remote_code)', lambda _: title, text)
