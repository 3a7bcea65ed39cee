"""Chat: conversations whose history is a state, free text beside them, commands, saved chats.

    conversation = Conversation(model)
    reply = conversation.reply("Hello")
    for piece in reply:
        print(piece, end="")
    conversation.finish(reply)

Nothing here prints or knows a terminal: what there is to tell a user is a value. A `Session` with
`answer` is the whole chat, commands included, for any front end.
"""

from wkv.chat.commands import COMMANDS, answer
from wkv.chat.conversation import Conversation
from wkv.chat.language import language_named
from wkv.chat.outcomes import Leave, Notice
from wkv.chat.prompt_files import read_prompt
from wkv.chat.reply import Reply
from wkv.chat.saved_chats import Store
from wkv.chat.session import Session
from wkv.chat.settings import Settings
from wkv.prompting.presets import PRESETS, preset_for, preset_named
from wkv.prompting.template import Template, clean, template_for

__all__ = [
    "COMMANDS",
    "PRESETS",
    "Conversation",
    "Leave",
    "Notice",
    "Reply",
    "Session",
    "Settings",
    "Store",
    "Template",
    "answer",
    "clean",
    "language_named",
    "preset_for",
    "preset_named",
    "read_prompt",
    "template_for",
]
