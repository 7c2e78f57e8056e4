"""The errors a user can cause or repair.

Each message says where, what was expected, what was found and what to do. Commands print it in one line and
exit with status 2. All of them survive pickling: they cross process boundaries.
"""

import os
import sys
from collections.abc import Sequence

import click


class QAError(Exception):
    """Base of every error that is explained by its message alone, without a traceback."""


class ConfigError(QAError):
    """One or more mistakes in a configuration, all named at once.

    Attributes:
        problems: One line for each mistake.
        source: Where the configuration came from, such as a file name.
    """

    def __init__(self, problems: Sequence[str], source: str) -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.source}: {self.problems[0]}"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{self.source}: {len(self.problems)} problems{lines}"


class DataError(QAError):
    """A data file that cannot be used, or a question in it."""


class CheckpointError(QAError):
    """A model or checkpoint directory that cannot be opened, or does not fit the run."""


class SweepError(QAError):
    """A sweep that cannot be started, resumed or read."""


def run_command(command: click.Command, program: str, argv: Sequence[str] | None = None) -> int:
    """Runs a command line and turns its errors into an exit status.

    Args:
        command: Returns its exit status.
        program: How the user calls it, such as `python -m qa_train`.
        argv: The arguments; those of this process by default.

    Returns:
        What `command` returns (0 after `--help`); 2 after a `QAError` or a mistake on the command line, whose message
        goes to stderr as one `error:` line; 130 after Ctrl-C. A closed stdout (as in `… | head`) ends quietly with 1.
    """
    try:
        return int(command.main(args=argv, prog_name=program, standalone_mode=False) or 0)
    except QAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        remedy = f"; see {context.command_path} --help" if context else ""
        print(f"error: {error.format_message().rstrip('.')}{remedy}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
