"""Labels: the words with which a model answers a question, and the prompt that asks for them.

Models with the World vocabulary, which were trained on many instructions, answer with a letter:

    Question: {instructions}
    A: {option} - {description}
    B: ...
    Answer with the letter of one option only.

Predicates are answered with yes or no. Above 26 options, the labels are numbers. The small models
of other vocabularies do not understand letters. They are only asked the question, and the options
themselves are the labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from wkv.evaluate.decisions.question import Question
from wkv.prompting.template import without_blank_lines


@dataclass(frozen=True)
class Form:
    """The question as the model reads it.

    Attributes:
        text: the text after the input.
        labels: the text of each option's label, without a blank before it.
    """

    text: str
    labels: tuple[str, ...]


def form_of(question: Question, *, letters: bool) -> Form:
    """Return the form of a question.

    Args:
        question: the question.
        letters: whether the options are named by letters, or answered as they are.
    """
    asked = without_blank_lines(question.instructions).strip()
    texts = tuple(option.text.strip() for option in question.options)
    if not letters:
        return Form(asked, texts)
    if question.kind == "predicate":
        return Form(f"Question: {asked}\nAnswer with yes or no only.", texts)
    names = label_names(len(texts))
    lines = [
        f"{name}: {option.text}{f' - {option.description}' if option.description else ''}"
        for name, option in zip(names, question.options, strict=True)
    ]
    kind = "letter" if len(texts) <= len(ascii_uppercase) else "number"
    listed = without_blank_lines("\n".join(lines))
    return Form(
        f"Question: {asked}\n{listed}\nAnswer with the {kind} of one option only.", tuple(names)
    )


def label_names(count: int) -> Sequence[str]:
    """Return the labels of options: letters, or numbers of the same length."""
    if count <= len(ascii_uppercase):
        return ascii_uppercase[:count]
    digits = len(str(count - 1))
    return [f"{number:0{digits}}" for number in range(count)]
