"""Text that follows a grammar, whatever the model wants: the models here want nothing at all."""

import contextlib
import json
import os
import re
import sys
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from wkv.constraints.compiler import Compiler
from wkv.constraints.grammar import Grammars, inline_json
from wkv.constraints.schema_limits import MAX_BYTES, MAX_CHOICES
from wkv.errors import BusyError, InputError, MissingExtraError
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import RunningSequence
from wkv.tokenizers.plain_bytes import BytesTokenizer
from wkv.tokenizers.world import WorldTokenizer

pytest.importorskip("llguidance")

WORD = {"type": "string", "maxLength": 6}
SMALL = {"type": "integer", "minimum": -50, "maximum": 999}


def closed(required, **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


SCHEMAS = {
    "string": WORD,
    "pattern": {"type": "string", "pattern": "^[a-z]{2,4}-[0-9]+$"},
    "date": {"type": "string", "format": "date"},
    "characters": {"enum": ["日本語", "🐦é", 'a"b\\c\n', "\u0001"]},
    "integer": SMALL,
    "decimal": {"type": "number", "minimum": 0.5, "maximum": 2},
    "number": {"type": "number"},
    "steps": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "bool": {"type": "boolean"},
    "null": {"type": "null"},
    "several types": {"type": ["boolean", "null"]},
    "enum": {"enum": ["red", 3, None, True, {"a": [1]}]},
    "const": {"const": {"ünï": ["日", 1.5]}},
    "empty object": closed(""),
    "person": closed("name age", name=WORD, age=SMALL, kind={"enum": ["a", "b"]}),
    "all optional": closed("", a=SMALL, b=SMALL, c=WORD),
    "nested": closed(
        "a", a=closed("b", b=closed("c", c={"type": "array", "items": SMALL, "maxItems": 2}))
    ),
    "list": {"type": "array", "items": SMALL, "minItems": 1, "maxItems": 4},
    "tuple": {"type": "array", "prefixItems": [WORD, SMALL], "items": False, "minItems": 2},
    "list of objects": {"type": "array", "items": closed("x", x=SMALL), "maxItems": 3},
    "map": {"type": "object", "patternProperties": {"^[a-zé]{1,3}$": SMALL}, "maxProperties": 3}
    | {"additionalProperties": False},
    "any of": {"anyOf": [SMALL, closed("s", s=WORD), {"type": "null"}]},
    "one of": {"oneOf": [closed("t", t={"const": "a"}), closed("t n", t={"const": "b"}, n=SMALL)]},
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    "reference": closed("p", p={"$ref": "#/$defs/point"})
    | {"$defs": {"point": closed("x y", x=SMALL, y=SMALL)}},
    "tree": {"$ref": "#/$defs/tree"}
    | {"$defs": {"tree": closed("v", v={"type": "boolean"}, next={"$ref": "#/$defs/tree"})}},
    "unknown keywords": {"$schema": "http://json-schema.org/draft-07/schema#", "title": "x"}
    | {"description": "y", "default": 3, "examples": [4], **SMALL},
}

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


def fits(value, schema, root):
    """Whether a value is as a schema wants it; knows the keywords that are used here."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    return all(check(value, schema, root) for check in (_type, _choice, _number, _text, _parts))


def _type(value, schema, root):
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not kinds or any(
        (number and (kind == "number" or int(value) == value))
        if kind in ("number", "integer")
        else isinstance(value, TYPES[kind])
        for kind in kinds
    )


def _choice(value, schema, root):
    same = json.dumps(value)
    return (
        ("const" not in schema or same == json.dumps(schema["const"]))
        and ("enum" not in schema or same in map(json.dumps, schema["enum"]))
        and all(fits(value, part, root) for part in schema.get("allOf", []))
        and ("anyOf" not in schema or any(fits(value, part, root) for part in schema["anyOf"]))
        and ("oneOf" not in schema or sum(fits(value, p, root) for p in schema["oneOf"]) == 1)
    )


def _number(value, schema, root):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    step = schema.get("multipleOf")
    return low <= value <= high and (step is None or value % step == 0)


def _text(value, schema, root):
    if not isinstance(value, str):
        return True
    date = r"\d{4}-\d\d-\d\d" if schema.get("format") == "date" else ""
    return (
        len(value) <= schema.get("maxLength", len(value))
        and re.search(schema.get("pattern", ""), value) is not None
        and re.fullmatch(date or "(?s:.*)", value) is not None
    )


def _by_pattern(name, schema, other):
    patterns = schema.get("patternProperties", {})
    return next((part for key, part in patterns.items() if re.search(key, name)), other)


def _parts(value, schema, root):
    if isinstance(value, dict):
        known = schema.get("properties", {})
        other = schema.get("additionalProperties", True)
        return (
            set(schema.get("required", [])) <= value.keys()
            and len(value) <= schema.get("maxProperties", len(value))
            and all(
                fits(part, known.get(name, _by_pattern(name, schema, other)), root)
                for name, part in value.items()
            )
        )
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        kinds = [*first, *[schema.get("items", True)] * (len(value) - len(first))]
        low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
        return low <= len(value) <= high and all(
            fits(part, kind, root) for part, kind in zip(value, kinds, strict=False)
        )
    return True


def write(grammars, tokenizer, vocab_size, logits_processor, seed, max_tokens=600):
    """Let a model without a clue write: every token is as likely as any other."""
    random = torch.Generator().manual_seed(seed)
    writer = RunningSequence(
        tokenizer, Sampling(temperature=0), max_tokens, grammars.stops, logits_processor
    )
    while writer.finish_reason is None:
        logits = torch.randn(vocab_size, generator=random)
        logits = writer.logits_processor(logits, writer.token_ids)
        (token,) = sample_batch(logits[None], [writer.sampler])
        if isinstance(token, Exception):
            raise token
        writer.accept(token)
    return writer


@pytest.fixture(scope="module")
def world():
    tokenizer = WorldTokenizer()
    return Grammars(tokenizer, 65536), tokenizer, 65536


@pytest.fixture(scope="module")
def small(demo):
    return Grammars(demo.tokenizer, demo.config.vocab_size), demo.tokenizer, demo.config.vocab_size


@pytest.fixture(scope="module")
def plain():
    return Grammars(BytesTokenizer(), 256), BytesTokenizer(), 256


@pytest.fixture(scope="module", params=["world", "small", "plain"])
def setting(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", SCHEMAS)
def test_any_text_fits_the_schema(setting, name):
    grammar = setting[0].json_schema(SCHEMAS[name])
    for seed in range(3):
        writer = write(*setting, grammar.logits_processor(), seed)
        raw = setting[1].decode_bytes(writer.token_ids)
        assert raw.decode("utf-8").removesuffix("\x03") == writer.text
        assert writer.finish_reason == "stop", writer.text
        value = json.loads(writer.text)
        assert fits(value, SCHEMAS[name], SCHEMAS[name]), writer.text


def test_the_check_of_this_file_refuses_what_does_not_fit():
    person = SCHEMAS["person"]
    assert fits({"name": "a", "age": 3}, person, person)
    for wrong in (
        {"name": "a"},
        {"name": "a", "age": 1000},
        {"name": "a", "age": 3, "z": 1},
        [],
        3,
    ):
        assert not fits(wrong, person, person)
    assert not fits(7, SCHEMAS["steps"], {})
    assert not fits("a-1", SCHEMAS["pattern"], {})


def test_a_json_object_is_one(setting):
    grammar = setting[0].json_object()
    done = 0
    for seed in range(8):
        writer = write(*setting, grammar.logits_processor(), seed, 400)
        assert writer.text.startswith("{")
        assert "\n" not in writer.text
        if writer.finish_reason == "stop":
            assert isinstance(json.loads(writer.text), dict)
            done += 1
    assert done > 0


def test_no_more_than_one_blank_and_only_between_parts(plain):
    logits_processor = plain[0].json_schema(SCHEMAS["list"]).logits_processor()
    for text, allowed in (("[1, ", "2-"), ("[1,", " 2-"), ("[", "2-")):
        logits = logits_processor(torch.zeros(256), list(text.encode()))
        logits_processor = plain[0].json_schema(SCHEMAS["list"]).logits_processor()
        assert all(logits[ord(character)] == 0 for character in allowed)
        assert logits[ord(" ")] == (0 if " " in allowed else -torch.inf)


def test_at_the_end_only_the_end_can_be_drawn(setting):
    grammars, tokenizer, vocab_size = setting
    logits_processor = grammars.json_schema({"const": [1]}).logits_processor()
    end = 3 if tokenizer.end_of_text is None else tokenizer.end_of_text
    given = torch.zeros(vocab_size)
    logits = logits_processor(given, tokenizer.encode("[1]"))
    assert (logits == 0).nonzero().flatten().tolist() == [end]
    assert bool((given == 0).all())


def test_ids_that_stand_for_no_text_are_never_allowed(demo):
    grammars = Grammars(demo.tokenizer, 2100)
    for logits_processor in (
        grammars.json_object().logits_processor(),
        grammars.lark("start: /(?s:.*)/").logits_processor(),
    ):
        logits = logits_processor(torch.zeros(2100), [])
        assert bool((logits[2048:] == -torch.inf).all())
        assert bool((logits[1:2048] == 0).any())


def test_two_rows_do_not_share_a_matcher(small):
    grammars, tokenizer, vocab_size = small
    grammar = grammars.json_schema(SCHEMAS["person"])
    one, two = grammar.logits_processor(), grammar.logits_processor()
    ids = tokenizer.encode('{"name": "x')
    first = two(torch.zeros(vocab_size), [])
    for count in range(len(ids) + 1):
        after = one(torch.zeros(vocab_size), ids[:count])
    assert torch.equal(two(torch.zeros(vocab_size), []), first)
    assert not torch.equal(after, first)
    assert torch.equal(two(torch.zeros(vocab_size), ids), after)


def test_logits_keep_their_dtype(small):
    logits_processor = small[0].json_object().logits_processor()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert logits_processor(torch.zeros(small[2], dtype=dtype), []).dtype == dtype


def test_a_text_that_left_the_grammar_and_a_wrong_size_are_told(small):
    grammars, tokenizer, vocab_size = small
    with pytest.raises(InputError, match="left the grammar"):
        grammars.json_object().logits_processor()(torch.zeros(vocab_size), tokenizer.encode("You"))
    with pytest.raises(InputError, match="shape"):
        grammars.json_object().logits_processor()(torch.zeros(vocab_size - 1), [])


def test_the_built_in_model_writes_valid_json(demo, small):
    for seed in range(3):
        logits_processor = small[0].json_schema(SCHEMAS["person"]).logits_processor()
        stream = wkv.stream(
            demo,
            "User: Who are you?\n\nAssistant:",
            sampling=Sampling(seed=seed),
            logits_processor=logits_processor,
        )
        text = "".join(stream)
        assert stream.result.finish_reason == "stop"
        assert fits(json.loads(text), SCHEMAS["person"], {})


def test_a_tokenizer_that_cannot_end_a_text_is_refused():
    tokenizer = WorldTokenizer({1: b"{", 2: b"}"})
    tokenizer.end_of_text = None
    with pytest.raises(InputError, match="no id that ends a text"):
        Grammars(tokenizer, 3).json_object()


def test_a_vocabulary_without_the_bytes_of_json_is_an_input_error():
    with pytest.raises(InputError):
        Grammars(WorldTokenizer({1: b"a", 2: b"b"}), 3).json_object().logits_processor()(
            torch.zeros(3), []
        )


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubled(levels, last):
    """References that double at each level."""
    steps = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": steps | {f"d{levels}": last}}


def patterned(count):
    return [{"pattern": f".*{chr(97 + i)}.*b"} for i in range(count)]


BOMBS = {
    "deep": deep(3000),
    "deep list": json.loads("[" * 500 + "]" * 500),
    "deep enum": {"enum": [json.loads("[" * 500 + "]" * 500)]},
    "wide enum": {"enum": list(range(200_000))},
    "many enums": {"anyOf": [{"enum": list(range(100))}] * 50},
    "large": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}},
    "broken pattern": {"type": "string", "pattern": "(("},
    "huge pattern": {"type": "string", "pattern": "(a|b){1,1000}" * 1000 + "(?=x)"},
    "patterns at once": {"type": "string", "allOf": patterned(30)},
    "patterns of a property": {"allOf": [{"properties": {"a": part}} for part in patterned(30)]},
    "patterns through references": doubled(20, {"type": "string", "pattern": "a.*b"}),
    "patterns of a property through references": doubled(20, closed("", a=patterned(1)[0])),
    "chain of references": {"$ref": "#/$defs/0"}
    | {"$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(1500)}},
    "multiple": {"type": "integer", "multipleOf": 99_999_989},
    "multiples": {"anyOf": [{"type": "integer", "multipleOf": 9000 + i} for i in range(100)]},
    "combinations": {
        "allOf": [
            {"anyOf": [{"type": "object", "properties": {f"{i}_{j}": {}}} for j in range(3)]}
            for i in range(7)
        ]
    },
    "remote": {"$ref": "https://example.com/schema.json"},
    "file": {"$ref": "file:///etc/passwd"},
    "anchor": {"$ref": "#there"},
    "missing": {"$ref": "#/$defs/there"},
    "itself": {"$ref": "#"},
    "each other": {"$ref": "#/$defs/a"}
    | {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "inner id": {"properties": {"a": {"$id": "https://example.com/"}}},
    "not": {"not": {"type": "string"}},
    "if": {"if": {}, "then": {}},
    "unique": {"type": "array", "uniqueItems": True},
    "impossible": {"type": "integer", "minimum": 10, "maximum": 5},
    "bad type": {"type": "strin"},
    "number as type": {"type": 5},
    "list as properties": {"type": "object", "properties": [1]},
    "format": {"type": "string", "format": "color"},
    "huge number": {"const": 10**400},
    "far range": {"type": "number", "minimum": 1e-300, "maximum": 1e300},
    "nan": {"const": float("nan")},
    "half a character": {"const": "\ud800"},
    "no json": {"const": {1, 2}},
    "layout": {"x-guidance": {"whitespace_flexible": True}},
    "list": [],
    "nothing": None,
    "text": '{"type": "object"}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_cannot_be_followed_is_told_at_once(small, name):
    begun = time.perf_counter()
    with pytest.raises(InputError) as caught:
        small[0].json_schema(BOMBS[name])
    assert time.perf_counter() - begun < 5
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert "x-guidance" not in message or name == "layout"


KEYWORDS = """
    type properties required items enum const anyOf allOf oneOf $ref $defs pattern minimum maxItems
    minLength multipleOf additionalProperties prefixItems $id
"""

leaves = st.none() | st.booleans() | st.integers() | st.floats()
values = st.recursive(
    leaves | st.sampled_from(["string", "object", "array", "#", "a+"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(values)
def test_anything_gives_a_grammar_or_an_input_error(small, schema):
    with contextlib.suppress(InputError):
        write(*small, small[0].json_schema(schema).logits_processor(), 0, 20)


def test_messages_say_what_is_wrong(small):
    for name, words in {
        "not": "not",
        "bad type": "strin",
        "deep": "64",
        "wide enum": str(MAX_CHOICES),
        "large": str(MAX_BYTES),
        "remote": "example.com",
        "itself": "itself",
    }.items():
        with pytest.raises(InputError, match=words):
            small[0].json_schema(BOMBS[name])


def test_lenient_ignores_what_cannot_be_followed(small):
    schema = {"type": "array", "uniqueItems": True, "items": SMALL, "maxItems": 2}
    writer = write(*small, small[0].json_schema(schema, lenient=True).logits_processor(), 0)
    assert isinstance(json.loads(writer.text), list)


def test_costly_schemas_that_are_allowed_stay_cheap_while_they_are_followed(small):
    for schema in (
        {"type": "string", "pattern": "^(.*a.{18}|.*b.{17})"},
        {"type": "array", "items": {"type": "array", "minItems": 100_000}, "minItems": 1_000_000},
        {"type": "string", "minLength": 1_000_000},
        {"type": "string", "pattern": r"^(\p{L}\p{N}){1,400}" * 200},
        {"type": "string", "pattern": "^((a{1,200}){1,200}){1,200}$"},
    ):
        begun = time.perf_counter()
        with contextlib.suppress(InputError):  # its limits may be reached, which is told
            write(*small, small[0].json_schema(schema).logits_processor(), 0, 50)
        assert time.perf_counter() - begun < 5


def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for its memory")
def test_a_flood_of_schemas_does_not_fill_the_memory(demo):
    grammars = Grammars(demo.tokenizer, demo.config.vocab_size)
    for number in range(400):
        if number == 100:
            before = memory()
        properties = {f"key_{number}_{i}": SMALL for i in range(20)}
        grammars.json_schema(closed("", **properties))
    assert len(grammars._compiler) <= 64
    assert memory() - before < 64e6


def test_the_cache_is_bounded_by_bytes_and_keeps_what_was_used_last():
    compiler = Compiler(str.upper, max_entries=3, max_bytes=100)
    for source in ("a", "b", "c", "a", "d"):
        assert compiler.get(source) == source.upper()
    assert list(compiler._futures) == ["c", "a", "d"]
    compiler.get("e" * 99)
    assert len(compiler) == 2
    compiler.get("f" * 200)
    assert len(compiler) == 0


def test_a_source_that_many_ask_for_at_once_is_compiled_once():
    built = []

    def build(source):
        time.sleep(0.05)
        built.append(source)
        return object()

    compiler, results = Compiler(build), []
    threads = [threading.Thread(target=lambda: results.append(compiler.get("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["a"]
    assert len(results) == 8
    assert len(set(results)) == 1


def test_a_compilation_that_takes_too_long_is_given_up_and_takes_one_place():
    gate = threading.Event()
    compiler = Compiler(lambda source: gate.wait(), timeout=0.02, max_running=2)
    for source in ("a", "b", "a"):
        with pytest.raises(InputError, match=r"not compiled in 0\.02 seconds"):
            compiler.get(source)
    with pytest.raises(BusyError, match="2 schemas"):
        compiler.get("c")
    gate.set()
    for _ in range(500):
        if not compiler._running:
            break
        time.sleep(0.01)
    assert compiler.get("c") is True


def test_an_error_is_not_kept_and_a_panic_becomes_an_input_error():
    class PanicError(BaseException):
        pass

    def build(source):
        raise PanicError("oh no")

    compiler = Compiler(build)
    for _ in range(6):
        with pytest.raises(InputError, match="oh no"):
            compiler.get("a")
    assert len(compiler) == 0


def test_a_grammar_of_ones_own(plain):
    source = f'start: "say " (number | word)\nnumber: {inline_json(SMALL)}\nword: "é" | "no"'
    grammar = plain[0].lark(source)
    for seed in range(5):
        text = write(*plain, grammar.logits_processor(), seed).text
        assert re.fullmatch(r"say (-?\d+|é|no)", text)
    with pytest.raises(InputError, match="bytes"):
        plain[0].lark("start: " + "x" * 200_000)
    with pytest.raises(InputError):
        plain[0].lark("start: missing")


def test_without_llguidance_the_extra_is_named(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install -U fastapi")):
        Grammars(demo.tokenizer, demo.config.vocab_size).json_object()
