"""Whether a question is understood without the one before it, told by its pronouns and question words.

Known are those of English, German, French, Spanish, Russian, Chinese and Japanese. Of other languages only a
single word is known to say too little.
"""

from __future__ import annotations

import re

__all__ = ["needs_more", "points_back"]

_OPENING = 3  # characters before a pronoun of a script without capitals, too few for a name and its verb
_UNSPACED = "\u0e00"  # from here on scripts may do without spaces, so that words cannot be counted
# As they stand within a sentence, so that the German "Sie" for "you" is none; without those that mean
# something else in another of these languages.
_PRONOUN = re.compile(
    r"\b(?:it|its|he|him|his|she|her|hers|they|them|their|theirs|this|these|those"
    r"|(?:another|others)(?=\W*$)"
    r"|er|sie|ihn|ihm|ihre|ihren|seine|seinen|dieser|diese|dieses|dort|davon|dazu"
    r"|il|elle|ils|elles|lui|leur|leurs|celui|celle|ceux|cela|cette"
    r"|él|ella|ellos|ellas|sus|esto|eso|он|она|оно|они|его|её|их|ему|этот|эта|это|эти)\b"
    r"|[他她它其这那此]|彼|それ|これ|その|この"
)
# What a question may be made of and still say nothing of what it is about. A word of one language that
# names a thing in another is left out.
_SAYS_LITTLE = re.compile(
    r"""\W*(?:(?:and|but|so|not|then|else|exactly|since|until|till|by|in|on|at|to|for|from|of|with|about|how|why
    |what|which|who|whom|whose|when|where|much|many|long|far|often|old|big|tall|is|was|were|are|did|does
    |year|month|day|time|place|country|city|reason
    |und|seit|bis|wann|im|am|an|von|mit|für|um|zu|wem|wen|wer|wo|wohin|woher|warum|wieso|weshalb|wie|viel
    |viele|lange|oft|weit|welche[mnrs]?|jahr|tag|ort|uhrzeit|genau
    |et|depuis|jusqu|quand|où|qui|quoi|pourquoi|comment|combien|quel(?:le)?s?|en|à|de|par|pour|avec|année
    |y|desde|hasta|cuándo|dónde|quién(?:es)?|qué|por|para|con|cómo|cuánt[oa]s?|cuál(?:es)?|año|fecha
    |и|а|с|до|в|когда|где|кто|кого|кому|что|почему|зачем|как|сколько|куда|откуда|како[мй]|году)\b\W*)+
    |(?:那么?|还有|又|是|在|从|到|和|为)*(?:谁|誰|什么|什麼|什么时候|何时|何時|哪里|哪儿|哪年|怎么样?|多少|多久|几时)
    [呢吗了的是样]*\W*
    |(?:なぜ|どうして|いつ|どこ|誰|だれ|何|いくら)(?:です|に|で|から|まで|が|を|年)*か?\W*
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ALTERNATIVE = re.compile(
    r"\W*(?:(?:or|oder|ou|if (?:so|not)|(?:and |but |so )?(?:what|how) about)\b|[(（]?[a-z][)）]"
    r"|还是|或者|如果是|要是)",
    re.IGNORECASE,
)
_TO_READER = re.compile(
    r"(?:\w+\W+)?(?:(?:can|could|will|would) you (?:please )?(?:help|tell|answer)(?: \w+)?|how are you"
    r"|what if\b.*)\W*",
    re.IGNORECASE | re.DOTALL,
)
_OF_TEXTS = re.compile(
    r"\W*(?:is|are|does|do|did|was|were|can|could) (?:the|these|this|any of the)"
    r"(?: (?:above|following|provided|retrieved|user))*"
    r" (?:answer|context|document|passage|query|question|text)s?\b",
    re.IGNORECASE,
)


def points_back(text: str) -> bool:
    """Whether a pronoun stands for what an earlier question names: nothing before it in this one does."""
    if not (pronoun := _PRONOUN.search(text)):
        return False
    before = text[: pronoun.start()]
    if pronoun[0] >= "\u3000":
        return len(before.strip()) <= _OPENING
    return not any(word[0].isupper() or word[0].isdigit() for word in before.split()[1:])


def needs_more(text: str, *, is_first: bool, is_item: bool = False) -> bool:
    """Whether a question says too little: "And when?", "Or both?", "Can you help me?", "Is the text right?".

    Args:
        text: the question.
        is_first: whether none stands before it, of which it might be the rest.
        is_item: whether it is one of a list, each of which may well be about a text.
    """
    if _TO_READER.fullmatch(text) or (not is_item and _OF_TEXTS.match(text)):
        return True
    if is_first:
        return False
    is_word = len(text.split()) == 1 and max(text) < _UNSPACED
    return is_word or bool(_SAYS_LITTLE.fullmatch(text) or _ALTERNATIVE.match(text))
