"""Texts that tell a tokenizer apart from one that is nearly the same: for the self-check, the tests and benchmarks."""

from __future__ import annotations

import itertools
import random
import unicodedata
from collections.abc import Iterator, Sequence

__all__ = ["CONTEXTS", "NATURAL", "NATURAL_FORMS", "TRICKY", "broken_utf8", "code_points", "random_texts"]

CONTEXTS = ("{}", "a{}b", "x {} y")

# One sentence each in many scripts and languages.
NATURAL: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog, while 3.5 million researchers can't agree on e-mail etiquette.",
    "Die Straße nach München ist heute wegen Bauarbeiten zwischen zwölf und fünfzehn Uhr gesperrt.",
    "Le café près de l’hôtel propose des pâtisseries fraîches et des jus d'orange pressés à l'œil nu.",
    "El niño pequeño comió piñas y jalapeños; ¿quién se lo dijo? ¡Nadie!",
    "A língua portuguesa é falada em vários países, não só em Portugal e no Brasil.",
    "La città è più bella di notte, perché le luci si riflettono nell'acqua.",
    "Het schip voer langzaam de haven binnen; 's avonds werd geëvacueerd.",
    "Åsa köpte sju blåbärspajer på Östermalmstorg i går.",
    "Rødgrød med fløde er en dansk specialitet fra ærlige bønder på Ærø.",
    "Þórður keypti sér nýjan hest, en hann vildi ekki fara út í rigninguna.",
    "Tämä on hyvä esimerkki pitkästä yhdyssanasta: lentokonesuihkuturbiinimoottoriapumekaanikko.",
    "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt.",
    "Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās.",
    "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis, ąčęėįšųūž.",
    "Zażółć gęślą jaźń, powiedział Łukasz, i poszedł do źródła.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy, řekl Jiří.",
    "Kŕdeľ šťastných ďatľov učí pri ústí Váhu mĺkveho koňa obhrýzať kôru.",
    "Árvíztűrő tükörfúrógép, mondta őszintén a bűvész.",
    "Ştefan şi-a băut ţuica în grădină; șapte țărani au râs.",
    "İstanbul'da ağaçların altında ılık bir çay içtik, öğleden sonra güneş çıktı.",
    "Nguyễn Văn Đức đã đọc sách ở thư viện quốc gia Hà Nội từ sáng sớm.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι· ο ΟΔΥΣΣΕΥΣ και ο Σίσυφος το ξέρουν.",
    "Москва является столицей России, а съёмки шли в подъезде объятого тишиной дома.",
    "Київ — столиця України; її ґанки прикрашені їжаками.",
    "Сви људи рођени су слободни; Њихова ћерка живи у Ђакову.",
    "Бүгін ауа райы жақсы, қазақ тілі әдемі, ғылым өнер өңір.",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი. ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար։ և այլն",
    "כל בני האדם נולדו בני חורין ושווים בערכם; שָׁלוֹם עֲלֵיכֶם.",
    "تعتبر القاهرة أكبر مدينة في الوطن العربي، كَتَبَ الوَلَدُ رِسالةً. ﷺ ٣٤٥",
    "تہران ایران کا دارالحکومت ہے اور یہ بہت بڑا شہر ہے۔",
    "همهٔ افراد بشر آزاد به دنیا می‌آیند و می‌خواهند.",
    "ܟܠܗܘܢ ܒܢܝ̈ܢܫܐ ܒܪܝܠܗܘܢ ܚܐܪ̈ܐ",
    "भारत एक विशाल देश है जहाँ अनेक भाषाएँ बोली जाती हैं; क्षत्रिय ज्ञानी श्रद्धा ड़ ढ़।",
    "সব মানুষ স্বাধীনভাবে জন্মগ্রহণ করে; বাংলাদেশ একটি সুন্দর দেশ। য় ড়",
    "ਸਾਰੇ ਮਨੁੱਖ ਆਜ਼ਾਦ ਜੰਮਦੇ ਹਨ ਅਤੇ ਬਰਾਬਰ ਹਨ।",
    "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર છે.",
    "ସବୁ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ ଅଟନ୍ତି।",
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; ஸ்ரீ கொ கோ கௌ.",
    "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులు.",
    "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ; ಕೊ ಕೋ.",
    "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടെ ജനിച്ചവരാണ്; അവൻ പറഞ്ഞു.",
    "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත; ශ්‍රී ලංකා.",
    "มนุษย์ทั้งปวงเกิดมามีอิสระและเสมอภาคกัน น้ำ กำลัง",
    "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ນ້ຳ",
    "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။",
    "មនុស្សទាំងអស់កើតមកមានសេរីភាព និងភាពស្មើគ្នា។",
    "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས།",
    "ሁሉም ሰዎች በነፃነትና በእኩልነት ይወለዳሉ።",
    "ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ ᠮᠡᠨᠳᠡᠯᠡᠬᠦ",
    "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ, Ꭰꭰ Ꮿꮿ",
    "ᐃᓄᓕᒫᑦ ᐊᓂᖅᑎᕆᔪᕐᓇᖅᑎᑕᐅᓯᒪᕗᑦ",
    "東京は日本の首都であり、世界最大の都市圏の一つとして知られています。ガ行とｶﾞ行、ヷ。",
    "人人生而自由，在尊嚴和權利上一律平等。北京是中华人民共和国的首都。",
    "서울은 대한민국의 수도이며 정치 경제 문화의 중심지이다. 각 낱말.",
    "𐌰𐌻𐌻𐌰𐌹 𐌼𐌰𐌽𐌽𐌰 𐍆𐍂𐌴𐌹𐌷𐌰𐌻𐍃 𐐔𐐯𐑅𐐨𐑉𐐯𐐻",
    "Habari ya asubuhi? Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Ẹ káàárọ̀, gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́.",
    "Ua hānau kū‘oko‘a ‘ia nā kānaka apau loa.",
    'def f(x): return x**2  # naïve\n\tprint(f"{x!r}"); https://example.org/a_b?c=d&e=%20#frag',
    "👨‍👩‍👧‍👦 family 👍🏽 thumbs 🇩🇪🇫🇷 flags ❤️‍🔥 heart 🏴󠁧󠁢󠁳󠁣󠁴󠁿 5️⃣ ☎︎",
)

# The same texts in the other normal forms: some come with letters and marks apart, Korean ones with their letters.
NATURAL_FORMS: tuple[str, ...] = tuple(
    unicodedata.normalize(form, text) for text in NATURAL for form in ("NFD", "NFKD", "NFKC")
)

# Characters that join their neighbours to one grapheme cluster, and what they join.
_CLUSTERS = (
    *("\u1100\u1161", "\u1100\u1161\u11a8", "\u1112\u1161\u11ab\u0301", "\uac00\u11a8"),
    *("\u1100\u1100\u1161", "\uac01\u0301"),
    *("👨\u200d👩\u200d👧", "👍🏽", "❤\ufe0f\u200d🔥", "©\u200d©", "™\u0301", "1\ufe0f\u20e3"),
    *("❤\u200d™\u0301", "a\u200d™\u0301"),
    *("🇩🇪", "🇩🇪🇫", "🇩\u0301", "\u0600a", "\u0600ﬁ\u0301", "\u06dd1", "\u0d4eക", "ª\u0301\u0302"),
    *("\U000110bdª\u0301", "ﬁ\u0301"),
    *("e\u0301", "e\u0301\u0302", "e\u0301\u0302\u0303", "u\u031b\u0301", "ạ\u0302", ">\u0338"),
    *("\n\u0344\u0301", "\u0344", "\r\n", "\u200c\u0301"),
    *("क\u094d\u0937", "क\u094d\u0958\u0301", "\u0958\u0301", "กำ"),
    *("\u0e33\u0301", "ﾊ\uff9e", "\uff9e\u0301", "\ufffd\u0301"),
)  # fmt: skip

# One difficulty each, most of them found where two implementations disagreed.
TRICKY: tuple[str, ...] = (
    *("", " ", "   ", "\t\n\r", "\u00a0\u2003\u3000", "\0", "a\0b", "\0\0"),
    *("\x01\x02\x03\x04\x05\x06\x11\x7f\x80\x9f", "\x0b\x0c\x1c\x1d\x1e\x1f\x85", "\ufffd", "a\ufffdb"),
    *("\ufeffhello", "\u2028\u2029\u1680\u202f\u205f", "\u00ad", "e\u0301\u0323a\u0323\u0301", "a\u302e\u302fb"),
    *("\U0001d165\u302e", "\u302e\U0001d165x", "\u0344\u0345a", "\u0340", "\u1100\u1161\u11a8 \uac00\u11a8"),
    *("\u115f\u1160\u3164", "\u1100" * 5 + "\u1161" * 5, "가각힣ᄒ", "豈更車\uf900\ufa6a\U0002f800"),
    *("\U0002b81f\U0002b820\U0002b920\U0002ceaf\U0002ceb0\U00030000\u9fff\u4dc0",),
    *("a\u200bb\u200cc\u200dd\u2060e", "\u202eabc\u202c \u200fאב", "\u061c\u180e\ufff9\ufffb"),
    *("\ufdd0\uffff\ufffe", "Straße GROẞE", "İstanbul ıI", "ΟΔΥΣΣΕΥΣ σίσυφος ΣΑΣ", "ﬁne ﬀ ﬃ ﬆ"),
    *("ＡＢＣ１２３！？", "x²y³ ½ ™ ℃ № ㎏", "ǅ ǆ Ǆ Ⅷ ⅷ ⓐ", "ŉ ǰ ΐ ῒ", "ﷺ ﷲ", "ǼǽŐőⱥȺ", "\u1e9b\u0323"),
    *("\u0958\u0959", "\u2126\u212a\u212b", "\u0f77\u0f79\u0f81", "\uff9e\uff9f", "a" * 99, "a" * 100, "a" * 101),
    *("é" * 100, "é" * 101, "ß" * 60, "\U0001f600" * 100, "\U0001f600" * 101, "中" * 150, "ab" * 50 + "c"),
    *("x" * 100 + "." + "y" * 101 + " z", "a\u0301" * 100, "a\u0301" * 101, "\u0301" * 300 + "a", "q" * 1000),
    *("." * 1000, "한" * 33, "한" * 34, "İ" * 100, "ΐ" * 33, "a " * 1000, "\n" * 500 + "a", "##ing", "# #ing"),
    *("##", "#", "a##b", "@@", "▁a", "▁", "a▁b", "\\[SEP\\]", "[ SEP ]", "[SE\u0301P]", "[\u200bSEP]"),
    *("don't can't won’t “quoted” ‘x’", "a-b–c—d", "1,234.56e-10", "snake_case camelCase"),
    *("`~!@#$%^&*()_+-={}[]|\\:\";'<>?,./", "©®™°±×÷", "¿¡«»", "、。「」・", "٪،؛؟", "।॥", "𝓗𝓮𝓵𝓵𝓸 𝟘"),
    *("\ue000\ue001a\uf8ff", "\U000f0000\U000f0001a\U0010fffd\U0010ffff", "\U000f0000[SEP]\U000f0000"),
    *_CLUSTERS,
    *(f"x{cluster}y {cluster}{cluster} \n{cluster}" for cluster in _CLUSTERS),
    *("hahaha......aaaaaaa-----1000000", "\u0085a\u0085", "▁▁ ▁ a▁ ▁b ▁", "  a   b  ", "a\u3000 \u3000b \t"),
    *("[S\U000f0001EP]", " \ue000 ", "Ł ø đ ħ ŋ", "cafe\u0301 cafe\u0301s", "A\u030a Å Å"),
)  # fmt: skip

# (first, last, weight): where random characters come from.
_BLOCKS = (
    *((0x20, 0x7E, 30), (0xA0, 0x24F, 8), (0x300, 0x36F, 6), (0x370, 0x3FF, 4), (0x400, 0x52F, 4)),
    *((0x590, 0x6FF, 4), (0x900, 0xDFF, 4), (0xE00, 0xFFF, 3), (0x1100, 0x11FF, 3), (0x1E00, 0x1FFF, 4)),
    *((0x2000, 0x206F, 5), (0x20A0, 0x2BFF, 5), (0x3000, 0x30FF, 4), (0x302A, 0x302F, 1), (0x4E00, 0x9FFF, 6)),
    *((0xAC00, 0xD7A3, 4), (0xE000, 0xF8FF, 1), (0xF900, 0xFAFF, 2), (0xFB00, 0xFFFF, 4), (0x1B00, 0x1BFF, 1)),
    *((0x11000, 0x11FFF, 1), (0x16FF0, 0x16FF1, 1), (0x1D100, 0x1D1FF, 2), (0x1D400, 0x1D7FF, 2)),
    *((0x1F1E6, 0x1F1FF, 2), (0x1F300, 0x1FAFF, 5), (0x1F3FB, 0x1F3FF, 1), (0x20000, 0x2FA1F, 2)),
    *((0xE0000, 0xE01EF, 1), (0x0, 0x1F, 2), (0x7F, 0x9F, 1), (0xF0000, 0xF0010, 1), (0x10000, 0x10FFFF, 1)),
    *((0x200B, 0x200D, 2), (0xFE0E, 0xFE0F, 1)),
)  # fmt: skip
_WEIGHTS = list(itertools.accumulate(weight for _, _, weight in _BLOCKS))
_LENGTHS = (1, 2, 3, 5, 8, 13, 40, 130)


def code_points() -> range | list[int]:
    """All 1,112,064 Unicode scalar values."""
    return [*range(0xD800), *range(0xE000, 0x110000)]


def random_texts(count: int, seed: int = 0, tokens: Sequence[str] = ()) -> Iterator[str]:
    """``count`` texts: words of many languages with stray characters, and plain character soup; ``tokens`` among it."""
    generator = random.Random(seed)
    words = [word for sentence in NATURAL for word in sentence.split()]
    for _ in range(count):
        if generator.random() < 0.3:
            pieces = [generator.choice(words) + " " for _ in range(generator.randint(1, 20))]
            for _ in range(generator.randint(0, 6)):
                place = generator.randrange(len(pieces))
                cut = generator.randint(0, len(pieces[place]))
                pieces[place] = pieces[place][:cut] + _stray(generator, tokens) + pieces[place][cut:]
        else:
            pieces = [_piece(generator, words, tokens) for _ in range(generator.choice(_LENGTHS))]
        yield "".join(pieces)


def _piece(generator: random.Random, words: Sequence[str], tokens: Sequence[str]) -> str:
    chance = generator.random()
    if chance < 0.12:
        return " "
    if chance < 0.25:
        return generator.choice(words)
    stray = _stray(generator, tokens)
    return stray * generator.randint(90, 110) if len(stray) == 1 and chance > 0.985 else stray


def _stray(generator: random.Random, tokens: Sequence[str]) -> str:
    if tokens and generator.random() < 0.08:
        token = generator.choice(tokens)
        return generator.choice(
            (token, token, token, token.lower(), token.upper(), token[1:], token[:-1], f" {token} ")
        )
    if generator.random() < 0.06:
        return generator.choice(_CLUSTERS)
    ((first, last, _),) = generator.choices(_BLOCKS, cum_weights=_WEIGHTS)
    return chr(generator.randint(first, last)).encode("utf-8", "replace").decode()


def broken_utf8(count: int, seed: int = 0, tokens: Sequence[str] = ()) -> Iterator[bytes]:
    """``count`` byte strings, most of them not valid UTF-8: cut, overlong, surrogates, beyond U+10FFFF, stray bytes."""
    generator = random.Random(seed)
    parts = [
        *(bytes([byte]) for byte in (0x00, 0x20, 0x41, 0x5B, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0)),
        *(bytes([byte]) for byte in (0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xF8, 0xFF)),
        *(b"\xe0\x80\x80", b"\xe0\xa0", b"\xed\xa0\x80", b"\xed\x9f\xbf", b"\xf0\x80\x80\x80", b"\xf0\x90\x80"),
        *(b"\xf4\x90", b"\xf4\x8f\xbf\xbf", b"\xc3\xa9", b"\xe4\xb8\xad", b"\xe4\xb8", b"\xf0\x9f\x98\x80"),
        *(b"\xf3\xb0\x80\x80", b"\xef\xbf"),
        *(text.encode() for text in ("the ", "a", " ", "\u0301", "\ufffd", *tokens)),
    ]  # fmt: skip
    for _ in range(count):
        chosen = generator.choices(parts, k=generator.randint(1, 12))
        if generator.random() < 0.3:
            chosen.append(generator.randbytes(generator.randint(1, 8)))
        yield b"".join(chosen)
