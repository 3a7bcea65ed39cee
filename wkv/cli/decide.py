"""Answer questions about a text by probabilities; the text is read once.

A question is a text that is answered with yes or no; or, with values after a colon that are
separated by bars, a choice: `--ask "Which language is it?: English | Chinese | other"`. A file of
questions contains one JSON object per line, as in the API: {"type": "choice", "instructions": ...,
"choices": [...]}.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wkv.cli.notices import notice, slow_step
from wkv.cli.options import add_model, load_model
from wkv.errors import InputError
from wkv.files import decode_text, read_lines, read_text

if TYPE_CHECKING:
    from wkv.evaluate.decisions import Answer

SUMMARY = "answer questions about a text by probabilities"

LONGEST_LINE = 2**20
"""The largest number of characters of a line of questions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv decide` to the parser."""
    parser.add_argument("file", metavar="FILE", help="the text; - reads stdin")
    add_model(parser)
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="QUESTION",
        help="a question, answered with yes or no, or 'QUESTION: A | B | C'; may be repeated",
    )
    parser.add_argument(
        "--questions", type=Path, metavar="JSONL", help="a file with one question per line"
    )
    parser.add_argument("--state", metavar="FILE", help="begin from a saved or tuned state")
    parser.add_argument("--json", action="store_true", help="print one JSON object per answer")


def run(args: argparse.Namespace) -> int:
    """Print the answer to each question."""
    asked: list[Any] = [_question(text) for text in args.ask]
    if args.questions is not None:
        asked += _from_file(args.questions)
    if not asked:
        args.usage_error("there is no question; give --ask QUESTION, or --questions FILE")
    is_piped = args.file == "-"
    text = decode_text(sys.stdin.buffer.read(), "stdin") if is_piped else read_text(Path(args.file))

    from wkv.evaluate.decisions import Question, decide
    from wkv.models.state import State

    questions = [Question.of(question) for question in asked]
    model = load_model(args)
    state = None if args.state is None else State.load(args.state, model)
    with slow_step("reading the text"):
        answers = decide(model, text, questions, state=state)
    for answer in answers:
        print(json.dumps(_body(answer), ensure_ascii=False) if args.json else _line(answer))
    unsure = sum(answer.label_mass < 0.5 for answer in answers)
    if unsure:
        notice(
            f"in {unsure} of {len(answers)} answers the model gave less than half of the "
            "probability to the possible answers; it may not have understood the question"
        )
    return 0


def _question(text: str) -> Any:
    """Return a question that was typed: a text, or a choice."""
    asked, colon, values = text.rpartition(":")
    if not colon or "|" not in values:
        return text
    return {
        "type": "choice",
        "instructions": asked.strip(),
        "choices": [value.strip() for value in values.split("|")],
    }


def _from_file(path: Path) -> list[Any]:
    """Return the questions of a file.

    Raises:
        InputError: if a line is not JSON; names the line.
    """
    questions = []
    for number, line in enumerate(read_lines(path, LONGEST_LINE), 1):
        if line.strip():
            try:
                questions.append(json.loads(line))
            except ValueError as error:
                raise InputError(
                    f"{path}, line {number}: this is not JSON ({error}); write one question as a "
                    "JSON object in each line"
                ) from error
    return questions


def _line(answer: "Answer") -> str:
    """Return an answer for a person."""
    question = answer.question
    if question.kind == "predicate":
        found = f"{'yes' if answer.value else 'no'}  ({answer.probability:.1%} yes)"
    elif question.kind == "choice":
        found = f"{answer.value}  ({answer.probability:.1%})"
    else:
        best = question.options[int(answer.value)].text
        found = f"{answer.score:.2f}  ({best}: {answer.probability:.1%})"
    return f"{question.name or question.instructions}  {found}"


def _body(answer: "Answer") -> dict[str, Any]:
    """Return an answer as a JSON object."""
    question = answer.question
    options = zip(question.options, answer.probabilities, strict=True)
    body: dict[str, Any] = {
        "question": question.name or question.instructions,
        "value": answer.value,
        "probabilities": {option.text: probability for option, probability in options},
        "confidence": answer.confidence,
        "label_mass": answer.label_mass,
    }
    return body | ({"score": answer.score} if question.kind == "score" else {})
