"""English."""

TEXTS = {
    "comma": ", ",
    "built_in": "the built-in model",
    "model": "{name}: RWKV-{generation}, {layers} layers of {width} channels, {strategy}",
    "hint": "+help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.",
    "begins": "The conversation so far:",
    "empty": "There is nothing to send. Type a message, or +help.",
    "unknown": "{name} is no command; +help lists them all.",
    "unknown_near": "{name} is no command. Did you mean {near}? +help lists them all.",
    "usage": "It is used like this: {usage}",
    "usage_set": "It is used like this: {usage}, where KEY is one of {keys}.",
    "no_argument": "{name} stands alone; nothing may follow it.",
    "nothing_to_repeat": "There is no message yet that could be answered again.",
    "always_the_same": (
        "At temperature 0 the answer is always the same; try + -temp=1, or +set temperature 1."
    ),
    "nothing_to_undo": "There is nothing to undo.",
    "nothing_generated": "Nothing was generated yet; begin with +gen, +i, +qq or +qa.",
    "undone": "Taken back. Turns so far: {turns}.",
    "reset": "We are back at the beginning. (+undo returns.)",
    "prompt": "A new conversation of {user} with {bot}. (+undo returns to the old one.)",
    "system": "A new conversation begins with your system text. (+undo returns to the old one.)",
    "read": "Read {name}: {tokens} tokens in {seconds:.1f} s. Ask about it.",
    "saved": "Saved as {path}.",
    "loaded": "{name} goes on. Turns so far: {turns}. (+undo returns to where you were.)",
    "switched": "Now in {name}. Turns so far: {turns}.",
    "forked": "Now in {name}, a copy of {before}. (+load {before} goes back.)",
    "in_memory": "In memory (* is this one): {names}",
    "on_disk": "Saved in {folder}: {names}",
    "of_others": "Saved by other models: {count}",
    "unreadable": "Files there that are no chats or are damaged: {count}",
    "thinking_plain": "The model answers as it likes.",
    "thinking_skipped": "The model answers without thinking.",
    "thinking_free": "The model thinks before it answers.",
    "thinking_some": "The model thinks before it answers.",
    "thinking_a_bit": "The model thinks a bit before it answers.",
    "thinking_a_lot": "The model thinks a lot before it answers.",
    "stats": (
        "Turns: {turns}, {seen} tokens in the state\n"
        "Read: {read} tokens, {read_rate:.1f} per second\n"
        "Written: {written} tokens, {written_rate:.1f} per second\n"
        "State: {bytes:,} bytes, however long the conversation"
    ),
    "cut": "[cut off after {tokens} tokens; +set max_tokens N allows more]",
    "speed": "[{tokens} tokens, {rate:.1f} per second]",
    "stopped": "[stopped; nothing was taken in]",
    "no_answer": "[no answer]",
    "reading": "reading",
    "not_utf8": "line {number} is not UTF-8 (byte {byte}); it was passed over",
    "help_head": "Type a message, or a command:",
    "help_foot": (
        "  Within a message, -temp=X and -top_p=X hold for that message; \\n is a new line.\n"
        "  Alt+Enter begins a new line. +help COMMAND tells more."
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
    "+": "answer the last message again, differently",
    "+undo": "take back the last turn",
    "+reset": "begin again from the opening",
    "+prompt": "a new conversation from a prompt file",
    "+system": "a new conversation that begins with a system text",
    "+read": "take a text file in, then ask about it",
    "+save": "save this conversation",
    "+load": "go on with a saved conversation, or a fork",
    "+fork": "go on in a copy; this one stays as it is",
    "+list": "saved conversations, and forks",
    "+gen": "go on with any text",
    "+i": "follow an instruction",
    "+qq": "answer a question, without a conversation",
    "+qa": "answer a question as at the beginning of this conversation",
    "+++": "go on with the last free text",
    "++": "write the last free text again, differently",
    "+think": "let the model think before it answers",
    "+nothink": "let it answer at once",
    "+set": "show the settings, or change one",
    "+stats": "tokens, speed, size of the state",
    "+help": "this list, or more about a command",
    "+exit": "leave",
}

DETAILS = {
    "+undo": "  Up to 16 turns; a reset, a new opening or a loaded conversation count as one too.",
    "+prompt": (
        "  The file sets user, bot, interface and init_prompt, as a .toml file or as ChatRWKV's\n"
        "  Python file, which is read but not run. +reset and +qa return to it from then on."
    ),
    "+read": (
        "  The text is read once. It stays in the state, through +save and +load too.\n"
        "  Ctrl-C while it is read leaves the conversation as it was."
    ),
    "+save": "  A name has letters, digits and - _ . only. A chat of that name is replaced.",
    "+load": "  What was made with +fork comes first, then what was saved with +save.",
    "+gen": "  The conversation is not touched. +++ goes on, ++ tries again.",
    "+i": "  The form of Raven models. The conversation is not touched. +++ and ++ work here too.",
    "+think": (
        "  For models that were trained to think, such as G1.\n"
        "  'a bit' and 'a lot' say how much; 'off' returns to plain answers."
    ),
    "+set": (
        "  Keys: temperature, top_p, top_k, presence_penalty, frequency_penalty, penalty_decay,\n"
        "  max_tokens, preset. Presets: chat, chatrwkv, creative, precise, reason, exact."
    ),
}

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
