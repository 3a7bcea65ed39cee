"""Chinese."""

TEXTS = {
    "comma": "、",
    "built_in": "内置模型",
    "model": "{name}：RWKV-{generation}，{layers} 层，{width} 通道，{strategy}",
    "hint": "输入 +help 查看命令。Ctrl-C 停止回答，Ctrl-D 退出。",
    "begins": "对话的开头：",
    "empty": "没有可发送的内容。请输入消息，或输入 +help。",
    "unknown": "没有 {name} 这个命令，输入 +help 查看全部命令。",
    "unknown_near": "没有 {name} 这个命令，您要找的是 {near} 吗？输入 +help 查看全部命令。",
    "usage": "用法：{usage}",
    "usage_set": "用法：{usage}，可用的项：{keys}。",
    "no_argument": "{name} 后面不能再写别的内容。",
    "nothing_to_repeat": "还没有可以重新回答的消息。",
    "always_the_same": (
        "temperature 为 0 时回答总是相同，可以试试 + -temp=1 或 +set temperature 1。"
    ),
    "nothing_to_undo": "没有可以撤销的内容。",
    "nothing_generated": "还没有生成过内容，请先用 +gen、+i、+qq 或 +qa。",
    "undone": "已撤销。目前共 {turns} 轮。",
    "reset": "已回到对话开头。（+undo 可恢复）",
    "prompt": "{user} 与 {bot} 的新对话开始了。（+undo 可回到原来的对话）",
    "system": "新对话以您的系统提示开始。（+undo 可回到原来的对话）",
    "read": "已读完 {name}：{tokens} 个 token，用时 {seconds:.1f} 秒。现在可以提问了。",
    "saved": "已保存到 {path}。",
    "loaded": "已载入 {name}，目前共 {turns} 轮。（+undo 可回到刚才的对话）",
    "switched": "已切换到 {name}，目前共 {turns} 轮。",
    "forked": "已切换到 {name}，它是 {before} 的副本。（+load {before} 可回去）",
    "in_memory": "内存中的对话（* 为当前对话）：{names}",
    "on_disk": "保存在 {folder} 的对话：{names}",
    "of_others": "其他模型保存的对话：{count} 个",
    "unreadable": "该目录中无法识别或已损坏的文件：{count} 个",
    "thinking_plain": "模型将照常回答。",
    "thinking_skipped": "模型将不经思考直接回答。",
    "thinking_free": "模型将先思考再回答。",
    "thinking_some": "模型将先思考再回答。",
    "thinking_a_bit": "模型将先稍作思考再回答。",
    "thinking_a_lot": "模型将先深入思考再回答。",
    "stats": (
        "对话：{turns} 轮，状态已读 {seen} 个 token\n"
        "读取：{read} 个 token，每秒 {read_rate:.1f} 个\n"
        "生成：{written} 个 token，每秒 {written_rate:.1f} 个\n"
        "状态：{bytes:,} 字节，与对话长短无关"
    ),
    "cut": "[已在 {tokens} 个 token 处截断；用 +set max_tokens N 可放宽]",
    "speed": "[{tokens} 个 token，每秒 {rate:.1f} 个]",
    "stopped": "[已停止，对话没有变化]",
    "no_answer": "[没有回答]",
    "reading": "正在读取",
    "not_utf8": "第 {number} 行不是 UTF-8（第 {byte} 字节），已跳过",
    "help_head": "输入消息，或输入命令：",
    "help_foot": (
        "  消息中的 -temp=X 和 -top_p=X 只对该条消息有效；\\n 表示换行。\n"
        "  按 Alt+Enter 换行。+help 命令 可查看详细说明。"
    ),
}

ARGUMENTS = {
    "": "",
    "text": "文字",
    "path": "文件",
    "name": "名称",
    "amount": "[a bit|a lot|off]",
    "setting": "[项 值]",
    "command": "[命令]",
}

HELP = {
    "+": "换一种方式重新回答上一条消息",
    "+undo": "撤销上一轮",
    "+reset": "回到对话开头",
    "+prompt": "用提示文件开始新对话",
    "+system": "以一段系统提示开始新对话",
    "+read": "读入一个文本文件，然后就其内容提问",
    "+save": "保存当前对话",
    "+load": "继续一个已保存的对话或副本",
    "+fork": "在副本中继续，原对话保持不变",
    "+list": "列出已保存的对话和副本",
    "+gen": "续写任意文字",
    "+i": "按照指令作答",
    "+qq": "单独回答一个问题，与对话无关",
    "+qa": "像对话刚开始时那样回答一个问题",
    "+++": "接着续写上一次自由生成的内容",
    "++": "重新生成上一次自由生成的内容",
    "+think": "让模型先思考再回答",
    "+nothink": "让模型直接回答",
    "+set": "查看设置，或修改其中一项",
    "+stats": "token 数、速度和状态大小",
    "+help": "显示本列表，或某个命令的详细说明",
    "+exit": "退出",
}

DETAILS = {
    "+undo": "  最多 16 轮；重置、新开头、载入的对话也各算一次。",
    "+prompt": (
        "  文件中设定 user、bot、interface 和 init_prompt，可以是 .toml 文件，也可以是\n"
        "  ChatRWKV 的 Python 文件（只读取，不执行）。此后 +reset 和 +qa 都回到这个开头。"
    ),
    "+read": (
        "  文本只读一遍，内容留在状态中，用 +save 保存、+load 载入后依然有效。\n"
        "  读取时按 Ctrl-C 会放弃，对话保持原样。"
    ),
    "+save": "  名称只能包含文字、数字和 - _ . 。同名的对话会被替换。",
    "+load": "  先找 +fork 建立的副本，再找 +save 保存的对话。",
    "+gen": "  不影响当前对话。+++ 接着写，++ 重新写。",
    "+i": "  采用 Raven 模型的指令格式，不影响当前对话。同样可以用 +++ 和 ++。",
    "+think": (
        "  适用于训练过思考能力的模型，例如 G1。\n"
        "  a bit 为少想一些，a lot 为多想一些，off 为恢复普通回答。"
    ),
    "+set": (
        "  可用的项：temperature、top_p、top_k、presence_penalty、frequency_penalty、\n"
        "  penalty_decay、max_tokens、preset。\n"
        "  预设：chat、chatrwkv、creative、precise、reason、exact。"
    ),
}

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
