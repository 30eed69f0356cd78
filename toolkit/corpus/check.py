"""The built-in texts of ``check``: short, long, empty, multilingual, emoji, code and special-token texts.

Each provokes something that conversions are known to get wrong: padding leaking into a vector, truncation by one
token, accents, scripts without spaces, literal special tokens, control characters.
"""

from __future__ import annotations

from toolkit.errors import InputError

__all__ = ["as_pair", "as_row", "check_pairs", "check_texts"]

SHORT = (
    "Hello",
    "hello world",
    "SentenceTransformers are groovy",
    "My first sentence",
    "How do I reset my password?",
    "The cat sits outside.",
    "A man is playing guitar!",
    "The new movie is awesome; the previous one was not.",
    "don't can't won't it's they're",
    "U.S.A. vs. EU: 3.14 + 1e-9 = ? ($100, 50% & more...)",
    "antidisestablishmentarianism internationalization pneumonoultramicroscopicsilicovolcanoconiosis",
    "a",
    ".",
    "?!",
    "0",
    "2026-11-22T13:37:00Z",
    "https://example.com/path_a/b?c=d&e=%20#fragment user.name+tag@example.org",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
)

BLANK = ("", " ", "   ", "\t\n\r", "\u00a0\u2003\u3000", "\u200b", "\u200d", "\ufeff")

LANGUAGES = (
    "Die Straße nach München ist heute für den gesamten Verkehr gesperrt.",
    "Le café près de l'hôtel propose des pâtisseries fraîches et du jus d'orange pressé.",
    "El niño pequeño corrió rápidamente hacia la montaña.",
    "Não há nada mais importante do que a educação das crianças.",
    "Il cane è più veloce del gatto, però è tardi.",
    "Zażółć gęślą jaźń",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Árvíztűrő tükörfúrógép",
    "Nguyễn Văn Đức sống ở Hà Nội và học tiếng Việt.",
    "İstanbul, Türkiye'nin en kalabalık şehridir; ıssız değildir.",
    "Москва является столицей России и крупнейшим городом страны.",
    "Київ — столиця України, ґанок і їжак.",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας. ΟΔΥΣΣΕΥΣ",
    "ירושלים היא עיר עתיקה",
    "القاهرة هي عاصمة جمهورية مصر العربية كَتَبَ",
    "تهران پایتخت ایران است",
    "भारत एक विशाल देश है जहाँ अनेक भाषाएँ बोली जाती हैं। क्षत्रिय ड़",
    "বাংলাদেশ একটি সুন্দর দেশ",
    "தமிழ் ஒரு செம்மொழி",
    "ఆంధ్ర ప్రదేశ్",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย กำ",
    "ລາວ ພາສາ",
    "မြန်မာဘာသာ",
    "ភាសាខ្មែរ",
    "東京は日本の首都であり、世界最大の都市圏の一つです。",
    "北京是中华人民共和国的首都，人口超过两千万。",
    "서울은 대한민국의 수도이다. 각 각",
    "საქართველო თბილისი",
    "Հայաստան Երևան",
    "አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት",
    "Ελληνικά, русский, 日本語 and English in one sentence",
)

UNICODE = (
    "I ❤️ 🤗 transformers 🚀🔥",
    "👨‍👩‍👧‍👦 👍🏽 🇩🇪 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "ﬁne ﬀ ﬃ ﬆ ＡＢＣ１２３！？ x²y³ ½ ™ ℃ № ㎏",
    "e\u0301cole E\u0301COLE a\u0323\u0301 \u1e9b\u0323 Å Å Å",
    "soft\u00adhyphen zero\u200bwidth\u200cjoin\u200dspace\u2060word",
    "\u202eright to left\u202c \u200fאב",
    "𝓗𝓮𝓵𝓵𝓸 𝟘 ⅷ ⓐ",
    "Straße GROẞE ǅ ŉ ǰ ΐ İ ı",
    "“quoted” ‘x’ – — … ¿¡«»、。「」・٪،؛؟।॥",
    "豈更車\uf900\U0002f800\U0002b820\U0002b920\U00030000",
    "private \ue000\uf8ff\U000f0000 use",
    "unassigned \u0378\u2fe0 and \ufdd0\uffff non-characters",
    "control \x01\x02\x7f\x80\x9f characters\x0b\x0c\x1c\x1d\x85",
    "nul \x00 inside\x00",
    "replacement \ufffd character",
    "\u2028line\u2029separators\u1680\u202f\u205f",
    "©®™°±×÷ ♥ ♫ ✓ ∑ ∞ ≈ ≠",
    "\u0301 leading accent, \u0301\u0302\u0303 alone",
)

CODE = (
    "def f(x: int) -> int:\n\treturn x ** 2  # squared\n",
    "SELECT * FROM \"users\" WHERE id = 42 AND name LIKE '%a%';",
    "<div class='a b' id=\"c\">&nbsp;&lt;</div>",
    '{"key": [1, 2.5e-3, null, true], "nested": {"a\\n": "\\u00e9"}}',
    "C:\\Users\\x\\file.txt /usr/local/bin/python3 $HOME ~/.bashrc",
    "for (int i = 0; i < n; ++i) { a[i] ^= ~b[i] | (c << 2); }",
    "`~!@#$%^&*()_+-={}[]|\\:\";'<>?,./",
)

SPECIAL = (
    "[CLS] hi [SEP]",
    "[MASK]",
    "x[SEP]y",
    "[ SEP ] [sep] [SEP SEP] [[SEP]]",
    "a[MASK]b[MASK] [UNK] [PAD][PAD] [unused5]",
    "[SE\u0301P] [\u200bSEP]",
    "<s> </s> <pad> <unk> <mask> <|endoftext|>",
    "##ing # #ing ## a##b",
    "\u0120word \u2581word",
)

_SENTENCE = "Researchers measured the latency of embedding models for semantic search in production systems"


def check_texts(max_length: int | None) -> list[str]:
    """The texts, for a model that takes at most ``max_length`` tokens (``None``: any number).

    Among them are repetitions of a one-token word that land just below, on and just above the limit.
    """
    counts = range(max(1, max_length - 4), max_length + 2) if max_length is not None else ()
    limit = [" ".join(["time"] * count) for count in counts]
    words = _SENTENCE.split()
    lengths = (2, 5, 9, 14, 22, 40, 75, 130, 260)
    mixed = [" ".join((words * (count // len(words) + 1))[:count]) for count in lengths]
    long = [
        " ".join([_SENTENCE] * 60),
        "word" * 60,
        "x" * 99 + " " + "y" * 100 + " " + "z" * 101 + " " + "é" * 101,
        "." * 400,
        "東京" * 200,
        "🚀 " * 150,
    ]
    return [*SHORT, *BLANK, *LANGUAGES, *UNICODE, *CODE, *SPECIAL, *limit, *mixed, *long]


def as_row(query: str, document: str) -> str:
    """A pair as one line of text, a tab between the two."""
    return f"{query}\t{document}"


def as_pair(row: str) -> tuple[str, str]:
    """The query and the document of a line. Raises ``InputError`` where there is no tab."""
    query, tab, document = row.partition("\t")
    if not tab:
        raise InputError(f"text {row!r}: a pair is a query, a tab and a document")
    return query, document


def check_pairs(max_length: int) -> list[tuple[str, str]]:
    """Pairs of texts, for a model that takes at most ``max_length`` tokens of both together.

    Each of ``check_texts`` is in one of them, beside a short one or another of them. Among them are repetitions of a
    one-token word that land below, on and above the limit together, where either text is the longer one, and two texts
    each of which is too long.
    """
    texts = check_texts(max_length)
    far = len(texts) // 2
    beside = (
        lambda number: (SHORT[1], texts[number]),
        lambda number: (texts[number], SHORT[4]),
        lambda number: (texts[number], texts[(number + far) % len(texts)]),
    )
    pairs = [beside[number % 3](number) for number in range(len(texts))]
    for total in range(max(4, max_length - 5), max_length + 2):
        for first in dict.fromkeys((1, total // 3, total // 2, total - 1)):
            pairs.append((" ".join(["time"] * first), " ".join(["time"] * (total - first))))
    long = " ".join([_SENTENCE] * 60)
    return [*pairs, (long, long), (long, SHORT[1]), (SHORT[1], long), ("", "")]
