"""Texts on which tokenizers tend to differ."""

# ruff: noqa: RUF001 - characters that look alike are the point

from __future__ import annotations

from hypothesis import strategies as st

TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "one\ntwo\r\n\r\nthree\n\n\n\nfour\t\t\tfive",
    " \n \n  \n\tx\n ",
    "It's they're we'll I'd YOU'VE can't 'twas l'été",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\nclass A:\n\tpass\n",
    '{"key": [1, 2.5, -3e10, null], "nested": {"a\\n": "\\u00e9"}}',
    "<table><tr><td>cell</td></tr></table>",
    "https://example.org/a/b?c=d&e=%20#f user@example.org",
    "Les œufs à la coque, s'il vous plaît — déjà vu…",
    "Größe, Übung, ß ẞ; ĲSSELMEER; ﬁne ﬂow",
    "Привет, мир! Как дела?",
    "Γειά σου Κόσμε",
    "שלום עולם, مرحبا بالعالم",
    "日本語のテキストと漢字。中文字符，全角！한국어 텍스트",
    "हिन्दी में पाठ ภาษาไทย தமிழ்",
    "🙂🙃 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇳🇴 ☃️ ♥",
    "e\u0301 vs é, n\u0303 vs ñ, \u1100\u1161 vs 가, Å vs Å",
    "zero\u200bwidth\u200d joiner\ufeff bom nbsp\u00a0here \u2028line\u2029para\u3000ideographic",
    "\x00\x01\x7f control \x1b[31m",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀 🀄 \U0010ffff \ue000",
    "a" * 300,
    "ab " * 200,
    " " * 100 + "x" + "\n" * 50,
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~ ¿¡«»†‡•",
    "▁already ▁▁ spelled Ġ",
    "<0x0A><0xFF><unk><s></s>",
)

# Texts in which characters of category N stand, on which one reference is known to differ.
NUMBERS = (
    "1 12 123 1234 12345 3.14159 1,000,000 2026-11-24 0x1F 1e-9",
    "a  12   345    6789",
    "½ ⅓ x² Ⅷ ① ١٢٣ १२३ 一二三",
)

CHATS = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi <|im_end|><|endoftext|>",
    "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "<|im_start|> <|im_end|>  <|im_start|>\n\n<eos>",
    "<|im_sta<|im_start|>rt|>",
)

# Whatever unicode has (halves of surrogate pairs are no text), and often what tokenizers treat apart.
unicode_texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \n\t'sdt.,-_aeiouAEIOU\u0301▁Ġ"),
    ),
    max_size=60,
)
