"""The adapter of a wkv model to EleutherAI's lm-evaluation-harness. Importing it needs lm_eval.

    from lm_eval import simple_evaluate
    simple_evaluate(WKVHarness(wkv.load("model.pth")), tasks=["piqa"])

Contexts are never truncated, because a recurrent model has no maximum context length. Source of the
interface: lm-evaluation-harness, lm_eval/api/model.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from tqdm import tqdm

from wkv.evaluate.lambada import begin_ids
from wkv.evaluate.scoring import Pair, Score, score
from wkv.inference.generate import generate
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.inference.speculation import Speculate, Speculation
from wkv.prompting.template import Message, Template

MAX_TOKENS = 256
"""Maximum number of generated tokens if a task does not set one, as in the harness."""

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Option names with which tasks set that limit."""


class WKVHarness(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A language model of lm_eval that answers the three request types of the harness.

    Attributes:
        model: any loaded model.
        batch_size: number of rows per batch.
        begin: the ids that are read before each text, see `wkv.evaluate.lambada.begin_ids`.
        chat: the conversation format of the model; None if tasks are not chats.
        speculate: how texts are drafted, as in `wkv.generate`.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch_size: int = 8,
        begin: str = "auto",
        chat: Template | None = None,
        speculate: Speculate | Speculation = "auto",
    ) -> None:
        super().__init__()
        self.model = model
        self.batch_size = batch_size
        self.begin = begin_ids(model, begin)
        self.chat = chat
        self.speculate = speculate
        self._device = model.device

    @property
    def eot_token_id(self) -> int:
        """The id that ends a document, or 0 if the vocabulary has none."""
        return self.model.tokenizer.end_of_text or 0

    @property
    def tokenizer_name(self) -> str:
        """The name of the vocabulary, by which the harness distinguishes its caches."""
        return self.model.tokenizer.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **ignored: object
    ) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self.model.tokenizer.encode(string)

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Format a conversation as text."""
        if self.chat is None:
            raise NotImplementedError("no chat format was given; pass chat=template_for(model)")
        messages = [Message(message["role"], message["content"]) for message in chat_history]
        return self.chat.render(messages, add_reply=add_generation_prompt)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log probabilities of whole texts, after the id that ends a document."""
        texts = [request.args[0] for request in requests]
        context = self._with_begin([self.prefix_token_id])
        pairs = [Pair(context, self.tok_encode(text)) for text in texts]
        sums = [done.log_probability for done in self._score(pairs, disable_tqdm)]
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the generated texts, which end before one of a request's stop strings."""
        answers: dict[int, str] = {}
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as bar:
            for options, places in self._grouped(requests):
                for start in range(0, len(places), self.batch_size):
                    chosen = places[start : start + self.batch_size]
                    texts = self._generate([requests[place].args[0] for place in chosen], options)
                    answers.update(zip(chosen, texts, strict=True))
                    bar.update(len(chosen))
        for place, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, answers[place])
        return [answers[place] for place in range(len(requests))]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenize a context and its continuation.

        In a chat the harness omits the blank before an answer, because other templates end with a
        line break. In RWKV's format a reply starts with a blank, so it is added here.
        """
        if self._asks_for_reply(context) and not continuation[:1].isspace():
            continuation = " " + continuation
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        return pair

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **ignored: object,
    ) -> list[tuple[float, bool]]:
        """Return, for each target, its log probability and whether greedy decoding returns it."""
        pairs = [Pair(self._with_begin(context), target) for _, context, target in requests]
        scores = self._score(pairs, disable_tqdm)
        answers = [(done.log_probability, done.is_greedy) for done in scores]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _score(self, pairs: Sequence[Pair], disable_tqdm: bool) -> list[Score]:
        """Score pairs with a progress bar."""
        with tqdm(total=len(pairs), desc="Scoring", disable=disable_tqdm) as bar:
            return score(self.model, pairs, self.batch_size, bar.update)

    def _with_begin(self, context: list[int]) -> list[int]:
        """Return a context that starts with the ids to read before each text."""
        starts_with_it = context[: len(self.begin)] == self.begin
        return context if starts_with_it else [*self.begin, *context]

    def _asks_for_reply(self, context: str) -> bool:
        """Return whether a context is a conversation that ends where a reply starts."""
        return self.chat is not None and context.endswith(":")

    def _grouped(self, requests: Sequence[Any]) -> Iterable[tuple[Mapping[str, Any], list[int]]]:
        """Group requests by their options; yields options and indices, sorted by text length."""
        groups: dict[str, tuple[Mapping[str, Any], list[int]]] = {}
        for place, request in enumerate(requests):
            options = request.args[1]
            groups.setdefault(repr(options), (options, []))[1].append(place)
        for options, places in groups.values():
            places.sort(key=lambda place: len(requests[place].args[0]))
            yield options, places

    def _generate(self, contexts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        """Return the text generated after each context, with the options of a task."""
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        if self.chat is not None:
            stops.append(self.chat.next_turn)
        limits = [options[name] for name in LENGTHS if options.get(name) is not None]
        done = generate(
            self.model,
            [context or "\n" for context in contexts],
            sampling=_sampling(options),
            max_tokens=int(limits[0]) if limits else MAX_TOKENS,
            stop=[stop for stop in stops if stop],
            speculate=self.speculate,
        )
        return [
            one.text.removeprefix(" ") if self._asks_for_reply(context) else one.text
            for one, context in zip(done, contexts, strict=True)
        ]


def _sampling(options: Mapping[str, Any]) -> Sampling:
    """Return a task's sampling parameters: greedy unless it enables sampling, without penalties."""
    temperature = float(options.get("temperature") or 0)
    do_sample = options.get("do_sample", temperature > 0)
    return Sampling(
        temperature=temperature if do_sample else 0,
        top_p=float(options.get("top_p", 1)),
        top_k=max(0, int(options.get("top_k") or 0)),
        presence_penalty=0,
        frequency_penalty=0,
        seed=0,
    )
