"""Texts of the chat in Japanese."""

TEXTS = {
    "comma": "、",
    "built_in": "内蔵モデル",
    "model": "{name}：RWKV-{generation}、{layers} 層、{width} チャンネル、{strategy}",
    "hint": "+help でコマンド一覧を表示します。Ctrl-C で回答を中断、Ctrl-D で終了します。",
    "begins": "会話の冒頭：",
    "empty": "送信する内容がありません。メッセージか +help を入力してください。",
    "unknown": "{name} というコマンドはありません。+help で一覧を表示します。",
    "unknown_near": (
        "{name} というコマンドはありません。{near} のことですか？ +help で一覧を表示します。"
    ),
    "slash": "ここのコマンドは + で始まります。{near} ですか？",
    "usage": "使い方：{usage}",
    "usage_set": "使い方：{usage}。指定できる項目：{keys}",
    "no_argument": "{name} に引数は指定できません。",
    "nothing_to_repeat": "回答し直せるメッセージがまだありません。",
    "always_the_same": (
        "temperature が 0 のときは毎回同じ回答になります。+ -temp=1 か +set temperature 1 を"
        "お試しください。"
    ),
    "nothing_to_undo": "取り消せる操作がありません。",
    "nothing_generated": (
        "まだ文章を生成していません。+gen、+i、+qq、+qa のいずれかで始めてください。"
    ),
    "undone": "取り消しました。現在 {turns} ターンです。",
    "reset": "会話をリセットしました。（+undo で元に戻せます）",
    "prompt": "{user} と {bot} の新しい会話を始めました。（+undo で前の会話に戻せます）",
    "system": "システムプロンプトで新しい会話を始めました。（+undo で前の会話に戻せます）",
    "read": "{name} を読み込みました：{tokens} トークン、{seconds:.1f} 秒。質問をどうぞ。",
    "saved": "{path} に保存しました。",
    "loaded": "{name} を読み込みました。現在 {turns} ターンです。（+undo で前の会話に戻せます）",
    "switched": "{name} に切り替えました。現在 {turns} ターンです。",
    "forked": "{before} のコピー {name} に切り替えました。（+load {before} で戻れます）",
    "in_memory": "メモリー内の会話（* が現在の会話）：{names}",
    "on_disk": "{folder} に保存した会話：{names}",
    "of_others": "ほかのモデルで保存した会話：{count} 件",
    "unreadable": "壊れているファイル、または会話ではないファイル：{count} 件",
    "thinking_plain": "モデルは既定の方法で回答します。",
    "thinking_skipped": "モデルは考えずに回答します。",
    "thinking_free": "モデルは考えてから回答します。",
    "thinking_some": "モデルは考えてから回答します。",
    "thinking_a_bit": "モデルは少し考えてから回答します。",
    "thinking_a_lot": "モデルはじっくり考えてから回答します。",
    "stats": (
        "会話：{turns} ターン、モデルの状態が読んだ量：{seen} トークン\n"
        "読み込み：{read} トークン、{read_rate:.1f} トークン/秒\n"
        "生成：{written} トークン、{written_rate:.1f} トークン/秒\n"
        "モデルの状態：{bytes:,} バイト（会話の長さによらず一定）"
    ),
    "stats_drafts": (
        "下書き：{drafted} トークン中 {accepted} トークンを採用、"
        "1 回の計算あたり {per_pass:.2f} トークン"
    ),
    "cut": "[最大長 {tokens} トークンに達しました。+set max_tokens N で変更できます]",
    "cut_free": "[{tokens} トークンで停止しました。+++ で続きを書きます]",
    "as_message": "[メッセージとして送信しました。このモデルはほかの形式を学習していません]",
    "cannot_think": "このモデルは思考を学習していないため、そのまま回答します。",
    "speed": "[{tokens} トークン、{rate:.1f} トークン/秒]",
    "stopped": "[中断しました。会話は変わっていません]",
    "no_answer": "[回答は空です]",
    "reading": "読み込み中",
    "not_utf8": "{number} 行目は UTF-8 ではないため、読み飛ばしました",
    "help_head": "メッセージ、またはコマンドを入力してください：",
    "help_foot": (
        "  メッセージ中の -temp=X と -top_p=X はその回だけ有効です。\\n は改行です。\n"
        "  Alt+Enter で改行します。+help コマンド で詳しい説明を表示します。"
    ),
}

ARGUMENTS = {
    "": "",
    "text": "文章",
    "path": "ファイル",
    "name": "名前",
    "amount": "[a bit|a lot|off]",
    "setting": "[項目 値]",
    "command": "[コマンド]",
}

HELP = {
    "+": "直前のメッセージに回答し直す",
    "+undo": "直前のターンを取り消す",
    "+reset": "会話の冒頭に戻る",
    "+prompt": "プロンプトファイルから新しい会話を始める",
    "+system": "システムプロンプトで新しい会話を始める",
    "+read": "テキストファイルを読み込み、内容について質問する",
    "+save": "この会話を保存する",
    "+load": "保存した会話やコピーを再開する",
    "+fork": "コピーで続ける（元の会話は変わらない）",
    "+list": "保存した会話とコピーの一覧を表示する",
    "+gen": "任意の文章の続きを書く",
    "+i": "指示に従って回答する",
    "+qq": "会話とは別に質問に答える",
    "+qa": "会話の冒頭にいるものとして質問に答える",
    "+++": "直前に生成した文章の続きを書く",
    "++": "直前に生成した文章を作り直す",
    "+think": "考えてから回答させる",
    "+nothink": "考えずに回答させる",
    "+set": "設定を表示する、または変更する",
    "+stats": "トークン数、速度、モデルの状態のサイズを表示する",
    "+help": "この一覧、またはコマンドの説明を表示する",
    "+exit": "終了する",
}

DETAILS = {
    "+undo": (
        "  最大 16 ステップまで。リセット、新しい会話、会話の読み込みも\n  1 ステップと数えます。"
    ),
    "+prompt": (
        "  ファイルには user、bot、interface、init_prompt を書きます。.toml のほか、\n"
        "  ChatRWKV の Python ファイルも使えます（実行はしません）。\n"
        "  以後 +reset と +qa はこの冒頭に戻ります。"
    ),
    "+read": (
        "  文章は一度だけ読み込み、内容はモデルの状態に残ります。\n"
        "  +save と +load の後も有効です。\n"
        "  読み込み中に Ctrl-C を押すと中止します。会話は変わりません。"
    ),
    "+save": "  名前に使えるのは文字、数字、- _ . だけです。同じ名前の会話は上書きします。",
    "+load": "  保存した会話と同じ名前のコピーがあれば、コピーを優先します。",
    "+gen": "  会話には影響しません。+++ で続きを書き、++ で作り直します。",
    "+i": (
        "  Raven モデルの指示形式を使います。会話には影響しません。\n"
        "  +++ で続きを書き、++ で作り直します。"
    ),
    "+think": (
        "  G1 のように、考えるよう訓練されたモデル向けです。\n"
        "  a bit は少なめ、a lot は多め、off で既定の方法に戻ります。"
    ),
    "+set": (
        "  項目：temperature、top_p、top_k、presence_penalty、frequency_penalty、\n"
        "  penalty_decay、max_tokens、preset。\n"
        "  プリセット：chat、chatrwkv、creative、precise、reason、exact。"
    ),
}

ERRORS = {
    r"(.*) cannot be read \((.*)\); give a text file": "{0} を読めません（{1}）",
    r"(.*) is not (\S+) text \(line (\d+).*": "{0} は {1} のテキストではありません（{2} 行目）",
    r"(.*) is not text \(.*": "{0} はテキストファイルではありません",
    r"(.*) is compressed by (\w+), .* with (\w+)": (
        "{0} は {1} で圧縮されています。{2} で展開してください"
    ),
    r"(.*) is a (.*), expected text; .*": "{0} はテキストファイルではありません（{1}）",
    r"(.*): there is no text in this file": "{0}：ファイルにテキストがありません",
    r"the message is empty; .*": "メッセージが空です",
    r"there is no text; .*": "コマンドの後にテキストを書いてください",
    r"(-\w+=.*) is not a number; .*": "{0} は数値ではないため、送信しませんでした",
    r"(.*): no chat of that name was saved in (.*)": "{1} に {0} という会話はありません",
    r"(.*) is not a valid name for a chat; .*": "{0} は会話の名前に使えません",
    r"(.*): a conversation of that name is in memory; .*": "{0} という会話はすでにあります",
    r"(.*) is not a preset; expected one of (.*)": "プリセット {0} はありません：{1}",
    r"(\w+) is (.+), expected a .*number.*": "{0} の値 {1} は使えません",
    r"(.*), line (\d+): a prompt file may only .*": "{0} の {1} 行目：テキストだけを書けます",
    r"(.*): the file is not valid TOML \((.*)\)": "{0} は正しい TOML ではありません（{1}）",
    r"(.*): (user|bot) must be a name .*": "{0}：{1} は 1 行の名前にしてください",
    r"(.*): the chat could not be saved \((.*)\)": "{0} に保存できません（{1}）",
    r"(.*): this state belongs to another model .*": "{0} は別のモデルで保存されたものです",
    r"(.*): the file is truncated or damaged .*": "{0}：ファイルが不完全か壊れています",
    r"(.*): there is no such file or folder;.*": "{0} が見つかりません",
    r"(.*): there is no checkpoint in this folder; .*": "{0} にモデルがありません",
    r"(.*): the catalog has no such .*did you mean ([^?]*)\?.*": "{0} はありません。{1} ですか？",
}
"""Patterns of error messages in English, and their translations."""

OPENINGS = {
    "assistant": (
        (
            "こんにちは！",
            "こんにちは！私はあなたのアシスタントです。何でも聞いてください。できるだけわかりやすく、"
            "詳しくお答えします。",
        ),
    ),
    "friends": (
        ("{bot}、今ちょっといい？", "もちろん、{user}。どうしたの？"),
        (
            "一人では答えの出ない疑問がたくさんあるんだ。",
            "じゃあ、私に聞いてみて！じっくり考えて、順番に説明するのが好きなんだ。わからないときは、"
            "正直にわからないと言うね。",
        ),
    ),
}
