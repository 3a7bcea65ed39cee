"""An OpenAI-compatible server with a chat page, over `wkv.batching`: `wkv serve`.

Needs `pip install 'wkv[serve]'`.
"""
