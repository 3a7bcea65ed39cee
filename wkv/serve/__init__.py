"""An OpenAI-compatible server with a chat page, over `wkv.batching`: `wkv serve`.

Needs `pip install 'wkv[serve]'`. A request passes through one file for each stage:

    middleware          check the host, the API key and the size of the body
    protocol/           validate the body: typed requests, responses and errors
    routes/             one file for each family of paths
    build_constraints   response formats, tools and biases to a grammar and logits processors
    render_prompt       messages to token ids
    engine              submit the request to the scheduler, and receive its events
    parse_reply         text to content, reasoning and tool calls
    stream_reply        send server-sent events, or one JSON body

`service` holds the objects that all routes share, and `app` puts everything together.
"""
