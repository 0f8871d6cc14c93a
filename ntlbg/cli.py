"""The `ntlbg` command: choose the frames of a video that stand for it, and answer questions from them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ntlbg.cli_common import Parser, one_line, refusal


EPILOG = """\
examples:
  ntlbg select holiday.mp4 -k 16
  ntlbg select holiday.mp4 "where do they park the car?" -k 8 --out frames/ --report holiday.html
  ntlbg ask lecture.mkv "What is on the third slide?" "Who asks first?" --model ./my-ntlbg -k 32
  ntlbg ground match.mp4 "the first goal" --report goal.html
  ntlbg data features questions.jsonl --out features/ --workers 8
  ntlbg config generate --category long --gpu A100_40GB --out long.json
  ntlbg export runs/mine release/ --selector-only --push-to me/my-ntlbg
  ntlbg probe holiday.mp4
  ntlbg bench real rows.jsonl --model ./my-ntlbg --selectors uniform ntlbg -k 8 32 --out bench/

exit codes: 0 done, 1 done except for bad videos of many (ntlbg data) or without having found a moment (ntlbg ground,
highlights), 2 bad input or usage (one sentence on the standard error), 130 interrupted
"""


def build_parser() -> Parser:
    """The parser of all commands; importing it loads no model code, so `--help` is quick."""
    from argparse import RawDescriptionHelpFormatter

    from ntlbg import (
        cli_ask,
        cli_bench,
        cli_config,
        cli_data,
        cli_export,
        cli_ground,
        cli_predict,
        cli_probe,
        cli_select,
    )

    parser = Parser(
        prog="ntlbg",
        description="Pick the k frames that stand for a long video and a question, and answer from those alone.",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ntlbg {version('ntlbg')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    cli_select.add_command(commands)
    cli_ask.add_command(commands)
    cli_ground.add_command(commands)
    cli_predict.add_command(commands)
    cli_config.add_command(commands)
    cli_data.add_command(commands)
    cli_export.add_command(commands)
    cli_probe.add_command(commands)
    cli_bench.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        0 done, 1 done but for bad videos of many, 2 bad input, 130 interrupted. (argparse itself leaves with 2 on bad
        usage, with 0 after --help.)
    """
    args = build_parser().parse_args(argv)
    try:
        code = args.run(args) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) went away; point stdout nowhere so that the interpreter's last flush stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:
        # By name: its module cannot be imported where it is true.
        if type(error).__name__ != "TransformersTooOldError":
            raise
        print(f"ntlbg: error: {one_line(error)}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"ntlbg: error: {refusal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ntlbg: interrupted", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
