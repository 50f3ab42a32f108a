"""Constrained output: which tokens may come next under a JSON schema or a regular expression.

The parsing is llguidance's (extra `[grammar]`); this module adds what decoding needs around it: the width
of the model's logits, several end tokens, and errors that say what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import InputError, MissingDependencyError, warn
from ..prompts.tokenizer import Tokenizer
from ..values import mended

__all__ = ["Constraint"]

# Compact JSON has one form for each value: a small model cannot lose itself in blanks. As defaults, not
# overrides, they leave the last word to the schema's own "x-guidance".
_JSON_DEFAULTS = {"whitespace_flexible": False}
_JSON_WAY_OUT = (
    'Correct or simplify the schema; its member "x-guidance" takes llguidance\'s options, such as '
    '{"lenient": true} to ignore keywords that are not supported or {"coerce_one_of": true} to read oneOf as '
    "anyOf."
)
_REGEX_WAY_OUT = (
    "Write it in the syntax of Rust's regex crate, without look-around, word boundaries and back-references."
)
_FEW = 64


class Constraint:
    """Which tokens may come next under a JSON schema or a regular expression.

    One object follows one answer and is not to be shared between threads; making another one for the
    same tokenizer is cheap, since the index over its vocabulary (seconds for 262,144 tokens) is kept.

    The grammar is exact: the whole answer is the JSON text or matches the regular expression, without a
    blank before or after it, even where the prompt ends in "Answer:". Who wants a blank there ends the
    prompt with one, or begins the expression with ` ?`. JSON is compact (`{"a":1,"b":[2,3]}`), with
    properties in the schema's order and without escapes that are not needed; the schema's member
    `"x-guidance": {"whitespace_flexible": true}` allows blanks. Keywords that llguidance does not know are
    refused, not ignored, and `"format"` is enforced. Regular expressions have the syntax of Rust's regex
    crate and must match the whole answer, so that `^` and `$` are not needed; `\\d` is 0 to 9, `\\w` and
    `\\s` are Unicode's.

    Texts may be unbounded (`.*`, a string without maxLength); an answer that ends by the token limit is
    then only the beginning of one that fits.

    Args:
        tokenizer: the model's.
        json_schema: a JSON schema as a mapping or as JSON text.
        regex: a regular expression; give exactly one of the two.
        vocab_size: width of the model's logits; may be larger or smaller than the tokenizer's vocabulary.
        eos_ids: the tokens that end an answer, all allowed where the text may end and nowhere else.

    Raises:
        InputError: neither or both of `json_schema` and `regex`, one that cannot be used or that no text
            fits, a tokenizer that has no index for grammars, or no end token.
        MissingDependencyError: llguidance is not installed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        json_schema: Mapping[str, Any] | str | None = None,
        regex: str | None = None,
        vocab_size: int,
        eos_ids: frozenset[int],
    ) -> None:
        if (json_schema is None) == (regex is None):
            count = "neither" if regex is None else "both"
            raise InputError(f"A constraint is a JSON schema or a regular expression; {count} were given.")
        if vocab_size < 1:
            raise InputError(f"vocab_size={vocab_size} must be the width of the model's logits, at least 1.")
        self._vocab_size = vocab_size
        self._eos = _end_tokens(eos_ids, vocab_size)
        self._ended = False
        self._next: torch.Tensor | None = None

        library = _llguidance()
        matcher_class = library.LLMatcher
        if regex is not None:
            _check_regex(regex)
            self._name, way_out = f"regex={_short(regex)}", _REGEX_WAY_OUT
            # "d": digits are ASCII; Unicode's \d has hundreds that an older Unicode does not know.
            grammar = matcher_class.grammar_from_lark(f"start: /{library.regex_to_lark(regex, 'd')}/")
        else:
            schema = _schema(json_schema)
            text = json.dumps(schema, ensure_ascii=False)
            self._name, way_out = f"json_schema={_short(text)}", _JSON_WAY_OUT
            try:
                grammar = matcher_class.grammar_from_json_schema(schema, defaults=_JSON_DEFAULTS)
            except ValueError as error:  # it writes the schema as JSON by itself, and has smaller numbers
                raise InputError(f"{self._name} cannot be used: {error}. {way_out}") from error
        self._index = tokenizer.grammar_index(sorted(self._eos))
        self._matcher = matcher_class(self._index, grammar, log_level=0)
        if self._matcher.is_error():
            raise InputError(f"{self._name} cannot be used: {_reason(self._matcher.get_error())} {way_out}")
        for message in self._matcher.get_grammar_warnings():
            warn(f"{self._name}: {message}")
        self._mask()  # a grammar that no text fits shall fail here, not in the middle of a batch

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next.

        End tokens are among them exactly where the text may end. Ids that the tokenizer does not have
        (padding of the model's vocabulary) and special tokens never are. Where the grammar leaves no
        choice of text, the tokenizer's own split of that text may be the only one allowed.

        Returns:
            bool `[vocab_size]` on the CPU, at least one of them True; a copy.

        Raises:
            InputError: the tokenizer has no token for what must come next, or the grammar is too complex.
        """
        return self._mask().clone()

    def accept(self, token: int) -> None:
        """Advance by the chosen token; an end token ends the text.

        Raises:
            InputError: the token is not allowed here (the state stays as it was).
        """
        if not 0 <= token < self._vocab_size or not self._mask()[token]:
            raise self._refusal(token)
        if token in self._eos:
            self._ended = True
        elif self._matcher.validate_tokens([token]) != 1:
            raise self._refusal(token)
        else:
            self._matcher.consume_token(token)
        self._next = None

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow: the answer is complete, with or without an end token."""
        mask = self._mask()
        return int(mask.sum()) == int(mask[sorted(self._eos)].sum())

    def _mask(self) -> torch.Tensor:
        if self._next is None:
            self._next = self._compute()
        return self._next

    def _compute(self) -> torch.Tensor:
        matcher, ends = self._matcher, sorted(self._eos)
        mask = torch.zeros(self._vocab_size, dtype=torch.bool)
        if not self._ended:
            known = np.frombuffer(matcher.compute_logit_bias(), dtype=np.uint8)[: self._vocab_size] != 0
            mask[: len(known)] = torch.from_numpy(known)
            # llguidance's end tokens may be a guess and are set wherever it stops, also at a dead end.
            own = [i for i in self._index.eos_tokens if i < self._vocab_size]
            mask[own] = False
        may_end = self._ended or (matcher.is_accepting() and not matcher.is_error())
        if not self._ended:
            self._correct(mask, may_end)
        mask[ends] = may_end
        if not mask.any():
            reason = _reason(matcher.get_error()) if matcher.is_error() else ""
            raise InputError(
                f"{self._name}: nothing may come next and the text is not complete. Either no text fits, or "
                "the tokenizer has no token for what must come, or the grammar is too complex; "
                f"simplify it. {reason}".rstrip()
            )
        return mask

    def _correct(self, mask: torch.Tensor, may_end: bool) -> None:
        """Drop tokens that the parser would refuse.

        Where text is forced, llguidance takes the tokenizer's split of it without a look at the parser,
        which is wrong for tokenizers that normalise (lower case, NFKC) or lack a character.
        """
        if int(mask.count_nonzero()) > _FEW or self._matcher.is_error():
            return
        few = mask.nonzero().flatten().tolist()
        good = [i for i in few if self._matcher.validate_tokens([i]) == 1]
        if not good and (few or not may_end):
            size = min(self._index.vocab_size, self._vocab_size)
            outside = self._eos.union(self._index.eos_tokens)
            good = [i for i in range(size) if i not in outside and self._matcher.validate_tokens([i]) == 1]
        mask[few] = False
        mask[good] = True

    def _refusal(self, token: int) -> InputError:
        inside = 0 <= token < self._index.vocab_size
        text = f" ({self._index.decode_str([token])!r})" if inside else ""
        return InputError(
            f"Token {token}{text} may not come next under {self._name}; choose one of allowed()."
        )


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingDependencyError(
            "A JSON schema or regular expression for the answer needs the package llguidance: "
            "pip install 'nbce-rag[grammar]'"
        ) from error
    return llguidance


def _end_tokens(eos_ids: frozenset[int], vocab_size: int) -> frozenset[int]:
    if not eos_ids:
        raise InputError("There is no EOS token to end a constrained answer with; give eos_ids.")
    if wrong := sorted(i for i in eos_ids if not 0 <= i < vocab_size):
        raise InputError(f"eos_ids has {wrong}, outside of the model's {vocab_size} tokens; leave them out.")
    return frozenset(eos_ids)


def _check_regex(regex: Any) -> None:
    if not isinstance(regex, str) or not regex:
        raise InputError(f"regex={regex!r} must be a text that is not empty, such as 'yes|no'.")
    if mended(regex) != regex:
        raise InputError(f"regex={_short(regex)} holds half a surrogate pair, which is no text; take it out.")
    # llguidance would take these two otherwise than they are meant, without a word.
    if "\n" in regex and re.search(r"\(\?[a-zA-Z]*x", regex):
        raise InputError(f"regex={_short(regex)}: with the flag x it must be on one line; join its lines.")
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise InputError(f"regex={_short(regex)} ends in a backslash that escapes nothing; write it twice.")


def _schema(schema: Any) -> dict[str, Any]:
    """A plain copy, so that what llguidance reads is JSON and nothing else."""
    try:
        if isinstance(schema, str):
            text = schema
        elif isinstance(schema, Mapping):
            text = json.dumps(schema, default=_plain, allow_nan=False)
        else:
            raise TypeError(f"it is of type {type(schema).__name__}")
        plain = json.loads(text)
        if not isinstance(plain, dict):
            raise TypeError(f"its JSON is of type {type(plain).__name__}")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"json_schema={_short(str(schema))} is not a JSON object: {error}. Give a mapping of JSON types "
            'or its JSON text, such as {"type": "object"}; {} allows any JSON.'
        ) from error
    return plain


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is not of a JSON type")


def _reason(message: str) -> str:
    """The sentence that matters out of llguidance's report with parser state and source listing."""
    message = message.partition("<state>")[0].strip()
    if error := re.search(r"^error: (.+)$", message, re.MULTILINE):
        return error[1].rstrip(".") + "."
    first = message.partition("\n")[0]
    return re.sub(r"^at \d+\(\d+\): ", "", first).rstrip(".") + "."


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:199] + "…")
