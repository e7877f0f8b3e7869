"""`fovea chat`: several questions about the same images, each with the turns before it."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TextIO

from fovea.cli.answer_options import add_answering, answer_fields
from fovea.cli.connection import describe, gateway_client
from fovea.cli.conversation import Conversation
from fovea.cli.media import IMAGE_HELP, read_media, require_images
from fovea.cli.options import add_gateway, add_pruning, shared_fields
from fovea.cli.parsing import Commands, UsageError
from fovea.client import AnswerError, Client
from fovea.client.form_parts import Medium, UnreadableMedium

__all__ = ["add"]

_PROMPT: Final = "> "
_HELP: Final = """\
/image FILE ...  add images (files or https URLs) to the next question
/reset           forget questions and answers; the images stay
/clear           forget the images too
/help            show this
/quit            end, as Ctrl-D does; Ctrl-C stops an answer
A question that begins with / is written with //."""


def add(commands: Commands) -> None:
    """Adds the subcommand with its options."""
    parser = commands.add_parser(
        "chat",
        help="ask several questions about images, each with the ones before it",
        description="Asks several questions about images, each with the ones before it. A line is a question; /help"
        " lists what else can be typed. Questions may be piped in, one a line.",
        usage="%(prog)s [options] [IMAGE ...]",
    )
    parser.add_argument(
        "words", nargs="*", metavar="IMAGE ...", help=f"images of the first question, each a {IMAGE_HELP}"
    )
    add_pruning(parser)
    add_answering(parser)
    add_gateway(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(args: argparse.Namespace) -> int:
    conversation = Conversation(_images(args.words))
    fields = shared_fields(args) | answer_fields(args)
    failed = False
    with gateway_client(args) as client, _lines(from_terminal="-" in args.words) as lines:
        for line in lines:
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not _command(line, conversation):
                        break
                else:
                    _answer(client, conversation, line.removeprefix("/") if line.startswith("//") else line, fields)
            except (AnswerError, UnreadableMedium, UsageError) as error:
                print(f"fovea: {describe(error, args.api_key)}", file=sys.stderr)
                failed = True
    return 1 if failed and not _is_typed() else 0


def _is_typed() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def _lines(*, from_terminal: bool) -> Iterator[Iterator[str]]:
    """Context manager with the lines that are typed or piped, without white space around them and without empty ones.

    Args:
        from_terminal: whether to read the terminal, because standard input was an image.

    Raises:
        UsageError: there is no terminal.
    """
    if from_terminal:
        with _terminal() as terminal:
            yield _stripped(lambda: _prompted(terminal.readline))
    elif _is_typed():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lines that can be edited and repeated
        yield _stripped(_typed)
    elif sys.stdin is None:
        raise AnswerError("standard input is closed")
    else:
        yield _stripped(sys.stdin.readline)


def _terminal() -> TextIO:
    try:
        return open("/dev/tty", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError("- reads an image from standard input, and there is no terminal for questions") from error


def _stripped(read: Callable[[], str]) -> Iterator[str]:
    while line := read():
        if text := line.strip():
            yield text


def _typed() -> str:
    try:
        return input(_PROMPT) + "\n"
    except EOFError:
        print()
        return ""


def _prompted(read: Callable[[], str]) -> str:
    print(_PROMPT, end="", file=sys.stderr, flush=True)
    return read()


def _command(line: str, conversation: Conversation) -> bool:
    """Runs a line that begins with /. Returns whether the chat goes on.

    Raises:
        UsageError: there is no such command, or an image is missing.
        AnswerError: an image cannot be read.
    """
    name, _, rest = line.partition(" ")
    if name == "/image":
        _add_images(rest, conversation)
    elif name == "/reset":
        conversation.reset()
    elif name == "/clear":
        conversation.clear()
    elif name == "/help":
        print(_HELP, file=sys.stderr)
    elif name != "/quit":
        raise UsageError(f"there is no {name}; accepted: /image, /reset, /clear, /help, /quit, or // for a question")
    return name != "/quit"


def _images(words: Sequence[str]) -> list[Medium]:
    """Images that the words name, read here.

    Raises:
        UsageError: an image is a video.
        AnswerError: an image cannot be read.
    """
    images = read_media(words)
    require_images(words, images, "fovea chat takes no videos; fovea ask --video {video} answers a question about it")
    return images


def _add_images(text: str, conversation: Conversation) -> None:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError("a quotation mark is open") from error
    if not words or "-" in words:
        raise UsageError("/image needs files or https URLs")
    conversation.add_images(_images(words))
    count = conversation.num_images
    print(f"{count} image{'s' * (count > 1)}", file=sys.stderr)


def _answer(client: Client, conversation: Conversation, question: str, fields: dict[str, Any]) -> None:
    """Prints the answer to a question as it is decoded. Ctrl-C stops it; the conversation then stays as it was."""
    if not conversation.num_images:
        raise UsageError("there is no image yet; /image FILE adds one")
    try:
        with client.stream(messages=conversation.ask(question), **fields) as stream:
            for text in stream:
                print(text, end="", flush=True)
            print(flush=True)
            answer = stream.answer
    except KeyboardInterrupt:
        if not _is_typed():
            raise
        print("\n(stopped)", file=sys.stderr)
        return
    conversation.answered(answer["answer"])
