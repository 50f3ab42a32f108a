"""How the page looks. No script, no image, no font of its own: one style sheet, in the page itself."""

from __future__ import annotations

__all__ = ["PAGE", "PALETTE", "STRONGEST", "STYLE", "shade"]

# Hues that people with any kind of colour vision tell apart (after Okabe and Ito), as red, green, blue.
# Passages beyond the eighth begin anew: it is the numbers that say which passage it is.
PALETTE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (153, 153, 51),
    (128, 128, 128),
)

# The share of the colour at an evidence of 1. The rest shines through from the page, so that the text keeps
# its contrast of 4.5 to 1 on light and on dark.
STRONGEST = 0.42
_WEAKEST = 0.05


def shade(number: int) -> str:
    """Class of the passage with this number, which counts from 1."""
    return f"nbce-c{(number - 1) % len(PALETTE) + 1}"


# Only `currentColor`, translucent colours and what a notebook's theme names are used, so that the same rules
# serve light and dark pages.
STYLE = "\n".join(
    [
        ".nbce { max-width: 46rem; line-height: 1.6; overflow-wrap: anywhere; text-align: start;"
        " color: var(--jp-content-font-color1, var(--vscode-editor-foreground, inherit)); }",
        ".nbce p, .nbce ul, .nbce li, .nbce blockquote { margin: 0; padding: 0; border: 0; color: inherit;"
        " background: none; max-width: none; }",
        ".nbce ul { list-style: none; }",
        ".nbce .nbce-question { font-weight: 600; white-space: pre-wrap; margin-bottom: .4rem; }",
        ".nbce .nbce-answer { font-size: 1.1em; line-height: 1.8; white-space: pre-wrap; }",
        ".nbce .nbce-code { display: block; margin: .3rem 0; padding: .3rem .6rem; border-radius: 4px;"
        " background: rgb(128 128 128 / .12); color: inherit; white-space: pre; overflow-x: auto;"
        " font: .85em/1.6 ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }",
        f".nbce .nbce-t {{ background: rgb(var(--nbce-c) / calc({_WEAKEST} + {STRONGEST - _WEAKEST:.2f} *"
        " var(--nbce-w, 1))); padding: .12em 0; -webkit-print-color-adjust: exact;"
        " print-color-adjust: exact; }",
        ".nbce .nbce-cite { text-decoration: underline dashed 1px; text-underline-offset: .3em;"
        " text-decoration-color: rgb(var(--nbce-c)); }",
        ".nbce .nbce-quote { text-decoration-style: solid; }",
        ".nbce .nbce-absent { text-decoration: underline dotted 2px currentColor;"
        " text-underline-offset: .3em; }",
        ".nbce sup { line-height: 0; font-weight: 700; white-space: nowrap; }",
        ".nbce a, .nbce a:visited { color: inherit; text-decoration: none; }",
        ".nbce a:hover, .nbce a:focus-visible { text-decoration: underline; }",
        ".nbce .nbce-small { font-size: .85em; opacity: .8; margin-top: .5rem; }",
        ".nbce .nbce-bar { display: flex; gap: 2px; margin-top: .6rem; font-size: .75em; line-height: 1.7; }",
        ".nbce .nbce-bar span { background: rgb(var(--nbce-c) / .42); min-width: 2px; overflow: hidden;"
        " white-space: nowrap; text-overflow: clip; text-align: center; border-radius: 2px;"
        " -webkit-print-color-adjust: exact; print-color-adjust: exact; }",
        ".nbce .nbce-list > li { margin-top: .6rem; padding-inline-start: .7rem;"
        " border-inline-start: 4px solid rgb(var(--nbce-c)); }",
        ".nbce .nbce-list > li:target { outline: 2px solid currentColor; outline-offset: 3px; }",
        ".nbce summary { cursor: pointer; }",
        ".nbce .nbce-meta { display: block; font-size: .85em; opacity: .8; }",
        ".nbce blockquote { margin-top: .2rem; font-size: .95em; white-space: pre-wrap; }",
        ".nbce mark { color: inherit; background: rgb(var(--nbce-c) / .42); font-weight: 600;"
        " text-decoration: underline 1px; text-underline-offset: .2em; border-radius: 2px;"
        " -webkit-print-color-adjust: exact; print-color-adjust: exact; }",
        ".nbce .nbce-thought { font-size: .95em; opacity: .8; margin-bottom: .4rem; }",
        ".nbce .nbce-more { margin-top: .8rem; }",
        ".nbce .nbce-warning { margin-top: .6rem; padding: .3rem .6rem; border: 1px solid currentColor; }",
        ".nbce .nbce-sr { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden;"
        " clip-path: inset(50%); white-space: nowrap; user-select: none; }",
        *(
            f".nbce .nbce-c{place} {{ --nbce-c: {red} {green} {blue}; }}"
            for place, (red, green, blue) in enumerate(PALETTE, start=1)
        ),
    ]
)

# What a page of its own needs besides; in a notebook all of this is the notebook's.
PAGE = """:root { color-scheme: light dark; --nbce-page: #ffffff; --nbce-ink: #1b1b1b; }
@media (prefers-color-scheme: dark) { :root { --nbce-page: #16181d; --nbce-ink: #e8e8e8; } }
body { margin: 0; padding: 1.5rem 1rem 3rem; background: var(--nbce-page); color: var(--nbce-ink);
  font: 16px/1.6 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 46rem; margin: 0 auto; }"""
