"""litellm against a server: python with_litellm.py BASE_URL."""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

import litellm


def main(address):
    given = {"api_base": f"{address}/v1", "api_key": "none", "num_retries": 0}
    chat = given | {"model": "openai/test", "messages": [{"role": "user", "content": "Hello"}]}
    said = litellm.completion(**chat, temperature=0, max_tokens=20)
    assert said.choices[0].message.content.startswith("Hello!"), said
    assert said.usage.completion_tokens > 0
    pieces = litellm.completion(**chat, temperature=0, max_tokens=20, stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == said.choices[0].message.content
    done = litellm.text_completion(
        model="text-completion-openai/test", prompt="Once", max_tokens=5, **given
    )
    assert done.choices[0].text
    made = litellm.embedding(model="openai/test", input=["a cat", "a dog"], **given)
    assert len(made.data) == 2
    try:
        litellm.completion(**chat | {"model": "openai/other"})
    except litellm.NotFoundError:
        pass
    else:
        raise AssertionError("another model was served")


if __name__ == "__main__":
    main(sys.argv[1])
