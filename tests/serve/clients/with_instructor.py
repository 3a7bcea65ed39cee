"""instructor against a server: python with_instructor.py BASE_URL."""

import sys

import instructor
from instructor.core import IncompleteOutputException, InstructorRetryException
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field


class Person(BaseModel):
    """Somebody; nothing else is told, as a model without sense would go on for ever."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


MODES = (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS)


def ask(client, **fields):
    return client.chat.completions.create(
        model="test",
        messages=[{"role": "user", "content": "Ann is 30 years old."}],
        response_model=Person,
        max_retries=0,
        max_tokens=200,
        **fields,
    )


def main(address):
    plain = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    failed = []
    for mode in MODES:
        client = instructor.from_openai(plain, mode=mode)
        fields = {"parallel_tool_calls": False} if mode is instructor.Mode.TOOLS else {}
        try:
            assert isinstance(ask(client, **fields), Person)
        except Exception as error:
            failed.append(f"{mode}: {type(error).__name__}: {str(error)[:300]}")
    try:  # any object of JSON: a small model may not come to its end, or hit the fields
        ask(instructor.from_openai(plain, mode=instructor.Mode.JSON))
    except (IncompleteOutputException, InstructorRetryException):
        pass
    except Exception as error:
        failed.append(f"json: {type(error).__name__}: {str(error)[:300]}")
    assert not failed, "\n".join(failed)


if __name__ == "__main__":
    main(sys.argv[1])
