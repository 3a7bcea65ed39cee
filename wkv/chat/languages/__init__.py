"""Texts of the chat, one file per language; see `wkv.chat.language`."""
