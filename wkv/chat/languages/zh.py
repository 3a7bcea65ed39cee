"""Texts of the chat in Chinese."""

TEXTS = {
    "comma": "、",
    "built_in": "内置模型",
    "model": "{name}：RWKV-{generation}，{layers} 层，{width} 通道，{strategy}",
    "hint": "输入 +help 查看命令。按 Ctrl-C 停止回答，按 Ctrl-D 退出。",
    "begins": "对话开头：",
    "empty": "没有可发送的内容。请输入消息，或输入 +help。",
    "unknown": "未知命令 {name}。输入 +help 查看全部命令。",
    "unknown_near": "未知命令 {name}，是否想输入 {near}？输入 +help 查看全部命令。",
    "slash": "这里的命令以 + 开头，是否想输入 {near}？",
    "usage": "用法：{usage}",
    "usage_set": "用法：{usage}，可用的参数：{keys}。",
    "no_argument": "{name} 不带参数。",
    "nothing_to_repeat": "还没有可以重新回答的消息。",
    "always_the_same": (
        "temperature 为 0 时回答总是相同，可以试试 + -temp=1 或 +set temperature 1。"
    ),
    "nothing_to_undo": "没有可以撤销的操作。",
    "nothing_generated": "还没有生成过文本，请先用 +gen、+i、+qq 或 +qa。",
    "undone": "已撤销。目前共 {turns} 轮。",
    "reset": "对话已重置。（+undo 可恢复）",
    "prompt": "已开始 {user} 与 {bot} 的新对话。（+undo 可恢复原来的对话）",
    "system": "已用系统提示词开始新对话。（+undo 可恢复原来的对话）",
    "read": "已读取 {name}：{tokens} 个 token，用时 {seconds:.1f} 秒。现在可以提问了。",
    "saved": "已保存到 {path}。",
    "loaded": "已加载 {name}，目前共 {turns} 轮。（+undo 可恢复原来的对话）",
    "switched": "已切换到 {name}，目前共 {turns} 轮。",
    "forked": "已切换到 {name}，它是 {before} 的副本。（+load {before} 可切换回去）",
    "in_memory": "内存中的对话（* 为当前对话）：{names}",
    "on_disk": "保存在 {folder} 的对话：{names}",
    "of_others": "用其他模型保存的对话：{count} 个",
    "unreadable": "已损坏或不是对话的文件：{count} 个",
    "thinking_plain": "模型将按默认方式回答。",
    "thinking_skipped": "模型将不经思考直接回答。",
    "thinking_free": "模型将先思考再回答。",
    "thinking_some": "模型将先思考再回答。",
    "thinking_a_bit": "模型将先稍作思考再回答。",
    "thinking_a_lot": "模型将先深入思考再回答。",
    "stats": (
        "对话：{turns} 轮，模型状态已读取 {seen} 个 token\n"
        "读取：{read} 个 token，{read_rate:.1f} token/s\n"
        "生成：{written} 个 token，{written_rate:.1f} token/s\n"
        "模型状态：{bytes:,} 字节，与对话长度无关"
    ),
    "stats_drafts": (
        "草稿：{drafted} 个 token 中接受了 {accepted} 个，每次计算得到 {per_pass:.2f} 个 token"
    ),
    "cut": "[已达到最大长度 {tokens} 个 token；可用 +set max_tokens N 修改]",
    "cut_free": "[已达到 {tokens} 个 token；输入 +++ 继续]",
    "as_message": "[已作为对话消息发送：这个模型没有用其他形式的提示词训练过]",
    "cannot_think": "这个模型没有训练过思考能力，将直接回答。",
    "speed": "[{tokens} 个 token，{rate:.1f} token/s]",
    "stopped": "[已停止，对话没有变化]",
    "no_answer": "[回答为空]",
    "reading": "正在读取",
    "not_utf8": "第 {number} 行不是 UTF-8，已跳过",
    "help_head": "输入消息，或输入命令：",
    "help_foot": (
        "  消息中的 -temp=X 和 -top_p=X 只对该条消息有效；\\n 表示换行。\n"
        "  按 Alt+Enter 换行。+help 命令 可查看该命令的详细说明。"
    ),
}

ARGUMENTS = {
    "": "",
    "text": "文本",
    "path": "文件",
    "name": "名称",
    "amount": "[a bit|a lot|off]",
    "setting": "[参数 值]",
    "command": "[命令]",
}

HELP = {
    "+": "重新回答上一条消息",
    "+undo": "撤销上一轮对话",
    "+reset": "回到对话开头",
    "+prompt": "用提示词文件开始新对话",
    "+system": "用系统提示词开始新对话",
    "+read": "读取文本文件，然后就其内容提问",
    "+save": "保存当前对话",
    "+load": "继续已保存的对话或副本",
    "+fork": "在副本中继续，原对话保持不变",
    "+list": "列出已保存的对话和副本",
    "+gen": "续写任意文本",
    "+i": "按照指令回答",
    "+qq": "单独回答一个问题，与当前对话无关",
    "+qa": "像对话刚开始时那样回答一个问题",
    "+++": "继续上一次续写",
    "++": "重新生成上一次续写的内容",
    "+think": "让模型先思考再回答",
    "+nothink": "让模型不经思考直接回答",
    "+set": "查看设置，或修改其中一项",
    "+stats": "查看 token 数、速度和模型状态的大小",
    "+help": "显示本列表，或某个命令的详细说明",
    "+exit": "退出",
}

DETAILS = {
    "+undo": "  最多撤销 16 步；重置、开始新对话、加载对话也各算一步。",
    "+prompt": (
        "  文件中设置 user、bot、interface 和 init_prompt，可以是 .toml 文件，也可以是\n"
        "  ChatRWKV 的 Python 文件（不会被执行）。此后 +reset 和 +qa 都回到这个开头。"
    ),
    "+read": (
        "  文本只读取一遍，内容保留在模型状态中，+save 和 +load 之后依然有效。\n"
        "  读取时按 Ctrl-C 可取消，对话保持不变。"
    ),
    "+save": "  名称只能包含文字、数字和 - _ . 。同名的对话会被覆盖。",
    "+load": "  如果副本与已保存的对话同名，则优先使用副本。",
    "+gen": "  不影响当前对话。+++ 继续写，++ 重新写。",
    "+i": "  使用 Raven 模型的指令格式，不影响当前对话。+++ 继续写，++ 重新写。",
    "+think": (
        "  适用于训练过思考能力的模型，例如 G1。\n"
        "  a bit 表示少想一些，a lot 表示多想一些，off 表示恢复默认方式。"
    ),
    "+set": (
        "  可用的参数：temperature、top_p、top_k、presence_penalty、frequency_penalty、\n"
        "  penalty_decay、max_tokens、preset。\n"
        "  预设：chat、chatrwkv、creative、precise、reason、exact。"
    ),
}

ERRORS = {
    r"(.*) cannot be read \((.*)\); give a text file": "无法读取 {0}（{1}），请指定一个文本文件",
    r"(.*) is not (\S+) text \(line (\d+).*": "{0} 不是 {1} 文本（第 {2} 行），请先转换为 UTF-8",
    r"(.*) is not text \(.*": "{0} 不是文本文件，请指定一个 UTF-8 文本文件",
    r"(.*) is compressed by (\w+), .* with (\w+)": "{0} 是 {1} 压缩文件，请先用 {2} 解压",
    r"(.*) is a (.*), expected text; .*": "{0} 不是文本文件（{1}）",
    r"(.*): there is no text in this file": "{0}：文件中没有文本",
    r"the message is empty; .*": "消息为空，请输入内容",
    r"there is no text; .*": "没有文本，请写在命令之后",
    r"(-\w+=.*) is not a number; .*": "{0} 不是数字，消息没有发送",
    r"(.*): no chat of that name was saved in (.*)": "{1} 中没有名为 {0} 的对话",
    r"(.*) is not a valid name for a chat; .*": "{0} 不能用作对话名称，只能包含文字、数字和 - _ .",
    r"(.*): a conversation of that name is in memory; .*": "已有名为 {0} 的对话，请换一个名称",
    r"(.*) is not a preset; expected one of (.*)": "没有名为 {0} 的预设，可用的预设：{1}",
    r"(\w+) is (.+), expected a .*number.*": "{0} 的值 {1} 无效，请输入数字",
    r"(.*), line (\d+): a prompt file may only .*": "{0} 第 {1} 行：提示词文件中只能写文本",
    r"(.*): the file is not valid TOML \((.*)\)": "{0} 不是有效的 TOML（{1}）",
    r"(.*): (user|bot) must be a name .*": "{0}：{1} 必须是一行以内的名字",
    r"(.*): the chat could not be saved \((.*)\)": "无法保存到 {0}（{1}）",
    r"(.*): this state belongs to another model .*": "{0} 是用其他模型保存的，请先加载那个模型",
    r"(.*): the file is truncated or damaged .*": "{0}：文件不完整或已损坏，请重新下载",
    r"(.*): there is no such file or folder;.*": "找不到 {0}，请检查路径或模型名称",
    r"(.*): there is no checkpoint in this folder; .*": "{0} 文件夹中没有模型文件",
    r"(.*): the catalog has no such .*did you mean ([^?]*)\?.*": "没有模型 {0}，是否想用 {1}？",
}
"""Patterns of error messages in English, and their translations."""

OPENINGS = {
    "assistant": (("你好！", "你好！我是你的助手。有什么问题尽管问，我会尽量清楚、完整地回答。"),),
    "friends": (
        ("{bot}，现在有空吗？", "当然有空，{user}。你在想什么呢？"),
        (
            "我常常碰到一些自己答不上来的问题。",
            "那就拿来问我吧！我喜欢把事情想清楚，再一步一步地讲给你听。要是我不知道，也会直接告诉你。",
        ),
    ),
}
