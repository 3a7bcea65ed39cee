"""Chat with a model: conversations, free text, commands and saved chats.

    conversation = Conversation(model)
    reply = conversation.reply("Hello")
    for piece in reply:
        print(piece, end="")
    conversation.finish(reply)

The package prints nothing and does not depend on a terminal: everything that a user should see is
returned as a value. `Session` and `answer` implement the whole chat, including commands, for any
user interface.
"""

from wkv.chat.commands import COMMANDS, answer
from wkv.chat.conversation import Conversation
from wkv.chat.language import language_named
from wkv.chat.outcomes import Leave, Notice
from wkv.chat.prompt_files import read_prompt
from wkv.chat.reply import ChatReply
from wkv.chat.saved_chats import ChatStore
from wkv.chat.session import Session
from wkv.chat.settings import ChatSettings
from wkv.prompting.presets import PRESETS, preset_for, preset_named
from wkv.prompting.template import Template, clean, template_for

__all__ = [
    "COMMANDS",
    "PRESETS",
    "ChatReply",
    "ChatSettings",
    "ChatStore",
    "Conversation",
    "Leave",
    "Notice",
    "Session",
    "Template",
    "answer",
    "clean",
    "language_named",
    "preset_for",
    "preset_named",
    "read_prompt",
    "template_for",
]
