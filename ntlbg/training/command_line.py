"""What train.py is told, by a file and by flags: one table of names for the model, the data and the training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from transformers import HfArgumentParser

from ntlbg.errors import InputError, first_sentence
from ntlbg.training.arguments import DataArguments, ModelArguments, NTLBGTrainingArguments
from ntlbg.training.stage_names import STAGES


_DATACLASSES = (ModelArguments, DataArguments, NTLBGTrainingArguments)


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage first: several hundred lines.
        raise InputError(f"{message}; `train.py --help` lists all arguments")


@dataclasses.dataclass(frozen=True)
class Command:
    """A parsed command line.

    Args:
        values (`dict`): by the names of the three dataclasses' fields.
        stages (`list[str]`): to train one after another, each in a folder of its own; empty for the one of `stage`.
    """

    values: dict
    stages: list[str]

    def arguments(self, **changes) -> tuple[ModelArguments, DataArguments, NTLBGTrainingArguments]:
        """The three dataclasses, made anew (so that a DeepSpeed configuration's "auto" is filled in for each stage).

        Raises:
            InputError: a value is out of range, or two do not go together.
        """
        try:
            return _parser().parse_dict({**self.values, **changes})
        except (ImportError, OSError, TypeError, ValueError) as error:
            raise InputError(first_sentence(error)) from error


def parse_command(argv: Sequence[str] | None = None) -> Command:
    r"""
    Read the arguments of train.py; those of `--config file.json` (or .yaml) come first, so that flags override them.

    Raises:
        InputError: a file cannot be read, a name is unknown, or a value is of the wrong kind.
    """
    parser = _parser()
    parser.add_argument("--config", metavar="FILE", help="JSON or YAML of any of the other arguments, in one table")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=[], help="train these one after another, each from the last"
    )
    # First the flags alone, for the file's name; what the file may give is not required yet.
    required = [action for action in parser._actions if action.required]
    for action in required:
        action.required = False
    flags = _sequence(argv)
    config = vars(parser.parse_args(flags))["config"]
    for action in required:
        action.required = True
    known = {action.dest for action in parser._actions} - {"config", "help"}
    words = [] if config is None else _as_flags(_read(Path(config)), known, config)
    values = vars(parser.parse_args([*words, *flags]))
    values.pop("config")
    stages = values.pop("stages")
    if len(set(stages)) != len(stages):
        raise InputError(f"--stages names a stage twice: {' '.join(stages)}; each trains once")
    if stages and values["resume_from_checkpoint"] not in (None, "auto"):
        raise InputError(
            f"`resume_from_checkpoint` is {values['resume_from_checkpoint']!r}, but --stages finds each stage's own "
            "last checkpoint; leave it out, or train the one `stage`"
        )
    return Command(values, stages)


def _sequence(argv: Sequence[str] | None) -> list[str]:
    import sys

    return list(sys.argv[1:] if argv is None else argv)


def _parser() -> _Parser:
    return _Parser(_DATACLASSES, description="Train an NTLBG model.", allow_abbrev=False)


def _read(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration {str(path)!r} cannot be read ({first_sentence(error)})") from error
    if path.suffix in (".yaml", ".yml"):
        import yaml

        load, wrong = yaml.safe_load, yaml.YAMLError
    else:
        load, wrong = json.loads, ValueError
    try:
        table = load(text)
    except wrong as error:
        raise InputError(f"the configuration {str(path)!r} cannot be parsed ({first_sentence(error)})") from error
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
        raise InputError(f"the configuration {str(path)!r} should be one table of names and values")
    return table


def _as_flags(table: dict, known: set[str], path: str) -> list[str]:
    """The table as flags, so that its values are checked as theirs are; null leaves the default."""
    words = []
    for name, value in table.items():
        if name not in known:
            raise InputError(f"the configuration {path!r} has {name!r}, which is no argument; see `train.py --help`")
        if isinstance(value, list):
            words += [f"--{name}", *map(_as_word, value)]
        elif value is not None:
            words.append(f"--{name}={_as_word(value)}")
    return words


def _as_word(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


__all__ = ["Command", "parse_command"]
