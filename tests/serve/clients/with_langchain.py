"""langchain-openai against a server: python with_langchain.py BASE_URL."""

import sys

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict, Field


class Person(BaseModel):
    """Somebody."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


def main(address):
    given = {"base_url": f"{address}/v1", "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(model="test", temperature=0, max_tokens=20, **given)
    said = chat.invoke("Hello")
    assert isinstance(said, AIMessage)
    assert said.content.startswith("Hello!"), said
    assert said.usage_metadata["total_tokens"] > 0
    pieces = [*chat.stream("Hello", stream_usage=True)]
    assert "".join(piece.content for piece in pieces) == said.content
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    assert whole.usage_metadata["output_tokens"] == said.usage_metadata["output_tokens"]
    messages = [SystemMessage("You are kind. " * 20), HumanMessage("Hello")]
    chat.invoke(messages)
    again = chat.invoke(messages)
    assert again.usage_metadata["input_token_details"]["cache_read"] > 0, again.usage_metadata
    assert len(chat.batch(["Hello", "Who are you?", "What is 2 + 2?"])) == 3
    chat = ChatOpenAI(model="test", temperature=0, max_tokens=200, **given)
    for method, fields in (
        ("json_schema", {}),
        ("function_calling", {"parallel_tool_calls": False}),
    ):
        structured = chat.with_structured_output(Person, method=method, **fields)
        assert isinstance(structured.invoke("Ann is 30 years old."), Person), method
    model = OpenAI(model="test", temperature=0, max_tokens=8, **given)
    assert model.invoke("There was once")
    assert "".join(model.stream("There was once"))
    embeddings = OpenAIEmbeddings(model="test", check_embedding_ctx_length=False, **given)
    vectors = embeddings.embed_documents(["a cat", "a dog"])
    assert len(vectors) == 2
    assert len(vectors[0]) == len(embeddings.embed_query("a cat"))


if __name__ == "__main__":
    main(sys.argv[1])
