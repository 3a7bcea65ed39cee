"""What the chat says, one file a language; `wkv.chat.language` says what a file holds."""
