"""Japanese."""

TEXTS = {
    "comma": "、",
    "built_in": "内蔵モデル",
    "model": "{name}：RWKV-{generation}、{layers} 層、{width} チャンネル、{strategy}",
    "hint": "+help でコマンド一覧を表示します。Ctrl-C で回答を中断、Ctrl-D で終了します。",
    "begins": "会話の始まり：",
    "empty": "送る内容がありません。メッセージか +help を入力してください。",
    "unknown": "{name} というコマンドはありません。+help で一覧を表示します。",
    "unknown_near": (
        "{name} というコマンドはありません。{near} のことですか？ +help で一覧を表示します。"
    ),
    "usage": "使い方：{usage}",
    "usage_set": "使い方：{usage}。指定できる項目：{keys}",
    "no_argument": "{name} の後には何も書けません。",
    "nothing_to_repeat": "もう一度答えられるメッセージがまだありません。",
    "always_the_same": (
        "temperature が 0 のときは毎回同じ答えになります。+ -temp=1 か +set temperature 1 をお試し"
        "ください。"
    ),
    "nothing_to_undo": "取り消せるものがありません。",
    "nothing_generated": "まだ何も生成していません。+gen、+i、+qq、+qa のどれかで始めてください。",
    "undone": "取り消しました。ここまでの発言：{turns} 回。",
    "reset": "会話の始まりに戻りました。（+undo で元に戻せます）",
    "prompt": "{user} と {bot} の新しい会話を始めます。（+undo で前の会話に戻れます）",
    "system": "システム文から新しい会話を始めます。（+undo で前の会話に戻れます）",
    "read": "{name} を読みました：{tokens} トークン、{seconds:.1f} 秒。質問をどうぞ。",
    "saved": "{path} に保存しました。",
    "loaded": "{name} の続きです。ここまでの発言：{turns} 回。（+undo で元の会話に戻れます）",
    "switched": "{name} に切り替えました。ここまでの発言：{turns} 回。",
    "forked": "{before} の写し {name} に切り替えました。（+load {before} で戻れます）",
    "in_memory": "メモリー内の会話（* が現在の会話）：{names}",
    "on_disk": "{folder} に保存した会話：{names}",
    "of_others": "ほかのモデルが保存した会話：{count} 件",
    "unreadable": "会話ではない、または壊れているファイル：{count} 件",
    "thinking_plain": "モデルは通常どおり答えます。",
    "thinking_skipped": "モデルは考えずにすぐ答えます。",
    "thinking_free": "モデルは考えてから答えます。",
    "thinking_some": "モデルは考えてから答えます。",
    "thinking_a_bit": "モデルは少し考えてから答えます。",
    "thinking_a_lot": "モデルはじっくり考えてから答えます。",
    "stats": (
        "発言：{turns} 回、状態が読んだ量：{seen} トークン\n"
        "読み込み：{read} トークン、毎秒 {read_rate:.1f}\n"
        "生成：{written} トークン、毎秒 {written_rate:.1f}\n"
        "状態：{bytes:,} バイト（会話の長さによらず一定）"
    ),
    "cut": "[{tokens} トークンで打ち切りました。+set max_tokens N で増やせます]",
    "speed": "[{tokens} トークン、毎秒 {rate:.1f}]",
    "stopped": "[中断しました。会話は元のままです]",
    "no_answer": "[回答なし]",
    "reading": "読み込み中",
    "not_utf8": "{number} 行目は UTF-8 ではないため（{byte} バイト目）、読み飛ばしました",
    "help_head": "メッセージ、またはコマンドを入力してください：",
    "help_foot": (
        "  メッセージ中の -temp=X と -top_p=X はそのメッセージだけに効きます。\\n は改行です。\n"
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
    "+": "直前のメッセージに別の答えを出す",
    "+undo": "直前のやり取りを取り消す",
    "+reset": "会話の始まりに戻る",
    "+prompt": "プロンプトファイルから新しい会話を始める",
    "+system": "システム文から新しい会話を始める",
    "+read": "テキストファイルを読み込み、内容について質問する",
    "+save": "この会話を保存する",
    "+load": "保存した会話や写しの続きをする",
    "+fork": "写しで続ける（元の会話はそのまま残る）",
    "+list": "保存した会話と写しの一覧",
    "+gen": "好きな文章の続きを書く",
    "+i": "指示に従って答える",
    "+qq": "会話とは別に質問に答える",
    "+qa": "会話の始まりの状態で質問に答える",
    "+++": "直前の自由生成の続きを書く",
    "++": "直前の自由生成をやり直す",
    "+think": "考えてから答えさせる",
    "+nothink": "すぐに答えさせる",
    "+set": "設定を表示する、または変更する",
    "+stats": "トークン数、速度、状態の大きさ",
    "+help": "この一覧、またはコマンドの詳しい説明",
    "+exit": "終了する",
}

DETAILS = {
    "+undo": "  最大 16 回まで。リセット、新しい始まり、読み込んだ会話もそれぞれ 1 回と数えます。",
    "+prompt": (
        "  ファイルには user、bot、interface、init_prompt を書きます。.toml のほか、ChatRWKV の\n"
        "  Python ファイルも使えます（実行はしません）。以後 +reset と +qa はここに戻ります。"
    ),
    "+read": (
        "  文章は一度だけ読み、内容は状態に残ります。+save と +load の後でも有効です。\n"
        "  読み込み中に Ctrl-C を押すと、会話は元のまま中止します。"
    ),
    "+save": "  名前に使えるのは文字、数字、- _ . だけです。同じ名前の会話は置き換えます。",
    "+load": "  +fork で作った写しを先に探し、次に +save で保存した会話を探します。",
    "+gen": "  会話には影響しません。+++ で続きを書き、++ でやり直します。",
    "+i": "  Raven モデルの指示形式です。会話には影響しません。+++ と ++ も使えます。",
    "+think": (
        "  G1 のように、考えるよう訓練されたモデル向けです。\n"
        "  a bit は少なめ、a lot は多め、off で通常の回答に戻ります。"
    ),
    "+set": (
        "  項目：temperature、top_p、top_k、presence_penalty、frequency_penalty、penalty_decay、\n"
        "  max_tokens、preset。プリセット：chat、chatrwkv、creative、precise、reason、exact。"
    ),
}

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
