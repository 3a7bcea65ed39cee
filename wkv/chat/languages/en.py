"""Texts of the chat in English."""

TEXTS = {
    "comma": ", ",
    "built_in": "the built-in model",
    "model": "{name}: RWKV-{generation}, {layers} layers, {width} channels, {strategy}",
    "hint": "+help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves the chat.",
    "begins": "The conversation begins with:",
    "empty": "There is nothing to send. Type a message, or +help.",
    "unknown": "Unknown command {name}. +help lists all commands.",
    "unknown_near": "Unknown command {name}. Did you mean {near}? +help lists all commands.",
    "slash": "Commands begin with + here. Did you mean {near}?",
    "usage": "Usage: {usage}",
    "usage_set": "Usage: {usage}, where KEY is one of {keys}.",
    "no_argument": "{name} takes no argument.",
    "nothing_to_repeat": "There is no message yet that could be answered again.",
    "always_the_same": (
        "At temperature 0 the answer is always the same; try + -temp=1, or +set temperature 1."
    ),
    "nothing_to_undo": "There is nothing to undo.",
    "nothing_generated": "No text was generated yet; start with +gen, +i, +qq or +qa.",
    "undone": "Undone. Turns so far: {turns}.",
    "reset": "Conversation reset. (+undo brings it back.)",
    "prompt": "New conversation of {user} with {bot}. (+undo brings the old one back.)",
    "system": "New conversation with your system prompt. (+undo brings the old one back.)",
    "read": "Read {name}: {tokens} tokens in {seconds:.1f} s. You can ask about it now.",
    "saved": "Saved as {path}.",
    "loaded": "Loaded {name}. Turns so far: {turns}. (+undo brings the old conversation back.)",
    "switched": "Switched to {name}. Turns so far: {turns}.",
    "forked": "Switched to {name}, a copy of {before}. (+load {before} returns to it.)",
    "in_memory": "In memory (* is the current one): {names}",
    "on_disk": "Saved in {folder}: {names}",
    "of_others": "Saved with other models: {count}",
    "unreadable": "Files that are damaged or not chats: {count}",
    "thinking_plain": "The model answers in its default way.",
    "thinking_skipped": "The model answers without thinking.",
    "thinking_free": "The model thinks before it answers.",
    "thinking_some": "The model thinks before it answers.",
    "thinking_a_bit": "The model thinks a bit before it answers.",
    "thinking_a_lot": "The model thinks a lot before it answers.",
    "stats": (
        "Turns: {turns}, {seen} tokens in the model state\n"
        "Read: {read} tokens, {read_rate:.1f} tokens/s\n"
        "Generated: {written} tokens, {written_rate:.1f} tokens/s\n"
        "Model state: {bytes:,} bytes, for a conversation of any length"
    ),
    "stats_drafts": (
        "Drafts: {accepted} of {drafted} tokens accepted, {per_pass:.2f} tokens per pass"
    ),
    "cut": "[stopped at the maximum length, {tokens} tokens; +set max_tokens N changes it]",
    "cut_free": "[stopped at {tokens} tokens; +++ continues]",
    "as_message": "[sent as a chat message: this model was not trained on other prompts]",
    "cannot_think": "This model was not trained to think. It answers directly.",
    "speed": "[{tokens} tokens, {rate:.1f} tokens/s]",
    "stopped": "[stopped; the conversation is unchanged]",
    "no_answer": "[empty answer]",
    "reading": "reading",
    "not_utf8": "line {number} is not UTF-8 and was skipped",
    "help_head": "Type a message, or a command:",
    "help_foot": (
        "  In a message, -temp=X and -top_p=X apply to it only; \\n is a line break.\n"
        "  Alt+Enter inserts a line break. +help COMMAND shows more about a command."
    ),
}

ARGUMENTS = {
    "": "",
    "text": "TEXT",
    "path": "FILE",
    "name": "NAME",
    "amount": "[a bit|a lot|off]",
    "setting": "[KEY VALUE]",
    "command": "[COMMAND]",
}

HELP = {
    "+": "answer the last message again",
    "+undo": "undo the last turn",
    "+reset": "return to the beginning of the conversation",
    "+prompt": "start a new conversation from a prompt file",
    "+system": "start a new conversation with a system prompt",
    "+read": "read a text file and ask about it",
    "+save": "save this conversation",
    "+load": "continue a saved conversation or a fork",
    "+fork": "continue in a copy; this conversation is unchanged",
    "+list": "list saved conversations and forks",
    "+gen": "continue any text",
    "+i": "follow an instruction",
    "+qq": "answer a question outside the conversation",
    "+qa": "answer a question as if the chat had just begun",
    "+++": "continue the last generated text",
    "++": "replace the last generated text by a new one",
    "+think": "let the model think before it answers",
    "+nothink": "let the model answer without thinking",
    "+set": "show the settings, or change one",
    "+stats": "show tokens, speed and size of the model state",
    "+help": "show this list, or more about a command",
    "+exit": "leave the chat",
}

DETAILS = {
    "+undo": (
        "  Up to 16 steps. A reset, a new conversation and a loaded conversation are\n  also steps."
    ),
    "+prompt": (
        "  The file sets user, bot, interface and init_prompt. It is a .toml file or\n"
        "  ChatRWKV's Python file, which is not executed. +reset and +qa then return to\n"
        "  this opening."
    ),
    "+read": (
        "  The text is read once and stays in the model state, also after +save and\n  +load.\n"
        "  Ctrl-C while it is read leaves the conversation unchanged."
    ),
    "+save": (
        "  A name may contain letters, digits and the characters - _ .\n"
        "  An existing chat with the same name is replaced."
    ),
    "+load": "  A fork with this name is preferred to a saved chat.",
    "+gen": "  The conversation is unchanged. +++ continues the text, ++ tries again.",
    "+i": (
        "  The prompt has the format of Raven models. The conversation is unchanged.\n"
        "  +++ continues the text, ++ tries again."
    ),
    "+think": (
        "  For models that were trained to think, such as G1.\n"
        "  'a bit' and 'a lot' set the amount; 'off' restores the default."
    ),
    "+set": (
        "  Keys: temperature, top_p, top_k, presence_penalty, frequency_penalty,\n"
        "  penalty_decay, max_tokens, preset.\n"
        "  Presets: chat, chatrwkv, creative, precise, reason, exact."
    ),
}

ERRORS: dict[str, str] = {}
"""Errors are written in English, so no translation is needed."""

OPENINGS = {
    "assistant": (
        (
            "Hello!",
            "Hello! I am your assistant. Ask me anything, and I will answer as clearly and "
            "completely as I can.",
        ),
    ),
    "friends": (
        ("Hi {bot}, do you have a minute?", "Of course, {user}. What is on your mind?"),
        (
            "I keep running into questions that I cannot answer alone.",
            "Then bring them to me! I like to think things through and to explain them step by "
            "step, and when I do not know something I will say so.",
        ),
    ),
}
