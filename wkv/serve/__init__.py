"""An OpenAI-compatible server with a chat page, over `wkv.batching`: `wkv serve`.

Needs `pip install 'wkv[serve]'`. A request passes through one file for each stage:

    middleware          check the host, the API key and the size of the body
    read_body           parse and validate the body in a worker thread, with limits
    protocol/           the types of requests, responses and errors
    routes/             one file for each family of paths
    build_constraints   response formats, tools and biases to a grammar and logits processors
    chat_messages       messages of a request to those of the prompt
    render_prompt       messages to token ids
    scheduler_thread    submit the request to the scheduler, and receive its events
    parse_reply         text to content, reasoning and tool calls
    stream_reply        send server-sent events, or one JSON body

`service` holds the objects that all routes share, and `app` puts everything together.
"""
